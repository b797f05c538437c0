//! Callbacks: signature and encryption, the XML envelope, and the events inside.

pub mod crypt;
mod elements;
pub mod envelope;
pub(crate) mod mentions;
pub mod message;
mod repair;
pub mod xml;

/// Processor time of the calling thread: unlike elapsed time, it does not depend on what else runs.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
fn processor_time() -> std::time::Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().unwrap()
}
