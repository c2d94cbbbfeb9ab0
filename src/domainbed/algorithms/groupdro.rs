//! Group distributionally robust optimisation (Sagawa et al., 2019): environments of high risk l_e get more weight.
//!
//! ```text
//! q_e = q_e exp(eta l_e) / sum over all e      loss = sum_e q_e l_e, with q as constants
//! ```
//!
//! q starts at ones and lives across steps. In 2020 DomainBed also divided the loss by E.

use crate::core::{DType, Init, Tensor};
use crate::domainbed::algorithm::{Algorithm, Setup};
use crate::domainbed::hparams::Preset;
use crate::domainbed::step::Step;

/// GroupDRO.
pub struct GroupDro {
    eta: f32,
    divided: bool,
}

impl GroupDro {
    pub fn new(setup: &Setup) -> Self {
        GroupDro { eta: setup.hparams.f32("groupdro_eta"), divided: setup.preset == Preset::Db2020 }
    }
}

impl Algorithm for GroupDro {
    fn update(&self, step: &Step) -> Vec<(&'static str, Tensor)> {
        let g = step.g;
        let logits: Vec<Tensor> = step.features_by_env().into_iter().map(|f| step.classify(f)).collect();
        let risks = step.risks(g.concat(&logits, 0));
        let held = g.state("q", &[step.envs], DType::F32, Init::Ones);
        let raised = g.mul(held, g.exp(g.scale(risks, self.eta)));
        let q = g.stop_gradient(g.div(raised, g.sum(raised, &[0])));
        g.assign(held, q);
        let loss = g.sum(g.mul(q, risks), &[0]);
        let loss = if self.divided { g.scale(loss, 1.0 / step.envs as f32) } else { loss };
        step.adam(loss);
        vec![("loss", loss)]
    }
}
