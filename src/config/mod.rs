//! The configuration: INI text to typed settings.
