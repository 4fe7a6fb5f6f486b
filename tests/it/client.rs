//! The blocking client on real sockets.
