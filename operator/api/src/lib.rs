//! The custom resources of Millrace.
