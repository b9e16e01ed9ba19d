//! In-memory doubles with fault plans, contract suites and real servers for tests.
