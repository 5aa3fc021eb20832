//! Tests of the VHD adapter that need no other program.
