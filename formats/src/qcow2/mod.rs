//! QCOW2.
