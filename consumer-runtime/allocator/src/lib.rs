//! The memory of large blocks goes back to the system when they are freed.
//!
//! At first glibc gives each block of 128 KiB and more a mapping of its own. When one is freed it takes blocks of that size
//! for short-lived, and from then on cuts them out of heaps that shrink only from their end. A consumer of large messages
//! then holds twice the memory of what is in flight. A mapping for each costs such a message some tens of microseconds.
//!
//! What is set here is described in mallopt(3).

/// Size in bytes from which on a block has a mapping of its own: the value that glibc starts with.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM: libc::c_int = 128 * 1024;

/// Keeps glibc from learning another size from which on a block is mapped. Other C libraries do not learn one. To be called
/// before the first large block is freed.
pub fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt(3) is safe to call from any thread while others allocate (MT-Safe, attribute init: it takes the lock
    // of the main arena), and the value is within the range of its parameter.
    let taken = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM) };
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    debug_assert_eq!(taken, 1, "the value is within the range of the parameter");
}
