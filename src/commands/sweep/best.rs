//! `kaleid sweep best`

use anyhow::{Result, bail};
use kaleid::sweep::select::{Choice, Group, Method, groups, ranked};
use kaleid::train::Variant;
use serde_json::{Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of the sweep, ours or DomainBed's
    dir: PathBuf,
    /// Which accuracy decides
    #[arg(long, value_enum, default_value = "iid")]
    method: Method,
    /// Only this data set
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Only this algorithm
    #[arg(long, value_name = "NAME")]
    algorithm: Option<String>,
    /// Only this variant
    #[arg(long, value_enum)]
    variant: Option<Variant>,
    /// Only this test domain, by number
    #[arg(long, value_name = "N")]
    test_env: Option<usize>,
    /// Only this split, by its trial seed
    #[arg(long, value_name = "N")]
    trial_seed: Option<u64>,
    /// How many of the best to show for each split
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Print only the best hyper-parameters, as `kaleid train --hparams` takes them
    #[arg(long, conflicts_with = "json")]
    hparams: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let records = super::read(&args.dir)?;
    let mut all = groups(&records);
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|w| w == name);
    all.retain(|group, _| {
        is(&args.dataset, &group.dataset)
            && is(&args.algorithm, &group.algorithm)
            && args.variant.is_none_or(|v| v.name() == group.variant)
            && args.test_env.is_none_or(|e| e == group.test_env)
            && args.trial_seed.is_none_or(|t| t == group.trial_seed)
    });
    let originals = |group: &Group| records.originals(&group.dataset);
    let ranked = all.iter().map(|(g, of)| (g, ranked(args.method, of, g.test_env, originals(g))));
    let ranked: Vec<(&Group, Vec<Choice>)> = ranked.filter(|(_, choices)| !choices.is_empty()).collect();
    if ranked.is_empty() {
        bail!("{}: no results that this choice can be made from", args.dir.display());
    }
    if args.hparams {
        let same = |a: &Group, b: &Group| {
            Group { trial_seed: 0, ..a.clone() } == Group { trial_seed: 0, ..b.clone() }
        };
        if let Some((other, _)) = ranked.iter().find(|(g, _)| !same(g, ranked[0].0)) {
            bail!(
                "--hparams: there are {} and {}, which do not compare: choose by --dataset, --algorithm, --variant, --test-env",
                name(ranked[0].0),
                name(other)
            );
        }
        let firsts = ranked.iter().map(|(_, choices)| choices[0]);
        let best = firsts.reduce(|a, b| if b.validation > a.validation { b } else { a });
        return best.map_or(Ok(()), |b| say!("{}", Value::Object(b.record.hparams.clone())));
    }
    for (group, choices) in ranked {
        if !args.json {
            say!("{}, trial {}, by {}:", name(group), group.trial_seed, args.method.name())?;
        }
        for choice in choices.iter().take(args.top) {
            let r = choice.record;
            let hparams = Value::Object(r.hparams.clone());
            if args.json {
                let row = json!({"dataset": group.dataset, "algorithm": group.algorithm, "variant": group.variant,
                    "test_env": group.test_env, "trial_seed": group.trial_seed, "hparams_seed": r.hparams_seed,
                    "validation": choice.validation, "test": choice.test, "step": r.step, "folder": r.folder,
                    "hparams": hparams});
                say!("{row}")?;
            } else {
                let [validation, test] = [choice.validation, choice.test].map(|a| 100.0 * a);
                say!("  validation {validation:.1} %, test {test:.1} %, step {}, {}", r.step, r.folder)?;
                say!("    {hparams}")?;
            }
        }
    }
    Ok(())
}

/// `PACS ERM qd, test domain 3`.
fn name(group: &Group) -> String {
    format!("{} {} {}, test domain {}", group.dataset, group.algorithm, group.variant, group.test_env)
}
