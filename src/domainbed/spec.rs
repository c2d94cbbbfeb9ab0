//! What the plans of a run are made for.

use super::hparams::Hparams;
use super::network::Network;
use super::samples::Samples;

/// What a run trains.
pub struct Spec<'a> {
    /// The network.
    pub network: &'a Network,
    /// Its hyper-parameters and the algorithm's.
    pub hparams: &'a Hparams,
    /// The kind of samples.
    pub samples: &'a Samples,
    /// Number of training environments.
    pub envs: usize,
    /// Samples of each in a step.
    pub batch: usize,
    /// Samples do not count alike in the cross entropy: [`super::trainer::Trainer::weigh`] says what they count.
    pub weighted: bool,
    /// Seed of every draw.
    pub seed: u64,
    /// The step from which on the parameters are averaged; the average predicts.
    pub average_from: Option<u32>,
    /// Recompute residual blocks in backward, even if there is memory to keep them.
    pub recompute: bool,
}

/// What the average of a parameter is called in the store.
pub const AVERAGE: &str = "average.";
