//! The server: configuration, one port for gRPC, HTTP and Flight, and wiring.
