//! WeCom's protocol.
