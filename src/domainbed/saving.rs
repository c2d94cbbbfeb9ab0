//! What is recomputed so that an update fits into memory.

use super::network::Network;

/// What is recomputed so that less is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saving {
    /// Forward in this many chunks, each recomputed in backward. With batch norm by the statistics of the batch a chunk is a group that
    /// shares statistics, so results do not change.
    pub chunks: usize,
    /// Residual blocks keep their inputs alone; what is inside is recomputed in backward.
    pub recompute: bool,
}

impl Saving {
    /// From keeping everything (or from `recompute`, where that is asked for) to what takes least memory.
    pub fn all(network: &Network, recompute: bool, envs: usize, rows: usize) -> Vec<Saving> {
        let mut all = vec![Saving { chunks: 1, recompute }];
        if network.sees_batches() {
            all.extend([1, envs].map(|chunks| Saving { chunks, recompute: true }));
        } else {
            let chunks = std::iter::successors(Some(2), |n| Some(2 * n)).take_while(|&n| n <= rows);
            all.extend(chunks.map(|chunks| Saving { chunks, recompute }));
            all.push(Saving { chunks: rows, recompute: true });
        }
        all.dedup();
        all
    }
}

impl std::fmt::Display for Saving {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.chunks {
            1 => {}
            chunks => write!(f, "forward in {chunks} chunks, each recomputed in backward")?,
        }
        if self.recompute {
            f.write_str(if self.chunks > 1 { ", and " } else { "" })?;
            f.write_str("residual blocks recomputed in backward")?;
        }
        Ok(())
    }
}
