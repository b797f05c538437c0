//! Ground floor, pure: what a directory is and how it changes.
