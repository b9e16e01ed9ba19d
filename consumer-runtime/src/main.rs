//! The shared runtime of all EventConsumers; see the library.

fn main() -> std::process::ExitCode {
    consumer_runtime::main()
}
