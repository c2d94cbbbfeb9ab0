//! The `kaleid` command. Each subcommand lives in `commands/`.

mod commands;

use clap::{Parser, Subcommand};
use kaleid::core::GpuOptions;

/// A few image domains go in, many come out: paint new domains with Stable Diffusion, measure the diversity they add, train on them, and
/// test on a domain never seen. Every kernel is WGSL; runs on any Vulkan, Metal or DX12 GPU.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  kaleid run                                        the built-in demo, into runs/demo
  kaleid generate --model DIR --prompt \"a dog\" --out images
  kaleid train --data PACS --test-domain sketch --out runs/sketch")]
struct Cli {
    #[command(flatten)]
    gpu: GpuOptions,
    #[command(subcommand)]
    command: Command,
}

/// The file of each says what it does, with an example.
#[derive(Subcommand)]
enum Command {
    Run(commands::run::Args),
    Data(commands::data::Args),
    Fetch(commands::fetch::Args),
    Prompts(commands::prompts::Args),
    Chat(commands::chat::Args),
    Generate(Box<commands::generate::Args>),
    Export(commands::export::Args),
    Select(commands::select::Args),
    Score(commands::score::Args),
    Train(Box<commands::train::Args>),
    Sweep(commands::sweep::Args),
    Report(commands::report::Args),
    Serve(commands::serve::Args),
    Verify(commands::verify::Args),
    Bench(commands::bench::Args),
    Info(commands::info::Args),
}

fn main() -> std::process::ExitCode {
    // Mesa's layer that picks a default GPU asks the desktop for one, and complains in our name where there is no desktop. We pick
    // the adapter ourselves.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    let cli = Cli::parse_from(std::env::args_os().map(commands::renamed));
    let done = match cli.command {
        Command::Run(args) => commands::run::run(args, &cli.gpu),
        Command::Data(args) => commands::data::run(args),
        Command::Fetch(args) => commands::fetch::run(args),
        Command::Chat(args) => commands::chat::run(args, &cli.gpu),
        Command::Prompts(args) => commands::prompts::run(args, &cli.gpu),
        Command::Generate(args) => commands::generate::run(*args, &cli.gpu),
        Command::Export(args) => commands::export::run(args),
        Command::Select(args) => commands::select::run(args, &cli.gpu),
        Command::Score(args) => commands::score::run(args, &cli.gpu),
        Command::Train(args) => commands::train::run(*args, &cli.gpu),
        Command::Sweep(args) => commands::sweep::run(args, &cli.gpu),
        Command::Report(args) => commands::report::run(args, &cli.gpu),
        Command::Serve(args) => commands::serve::run(args),
        Command::Verify(args) => commands::verify::run(args, &cli.gpu),
        Command::Bench(args) => commands::bench::run(args, &cli.gpu),
        Command::Info(args) => commands::info::run(args, &cli.gpu),
    };
    match done {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {}", kaleid::data::printable(&format!("{e:#}")));
            std::process::ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use kaleid::study::config::Study;

    /// Flags that run.toml does not have under their name.
    const ELSEWHERE: [&str; 24] = [
        // Every command has them.
        "adapter",
        "backend",
        "profile",
        // Where things lie: the study's own folders, and what --out says.
        "data",
        "out",
        "extra",
        "generated",
        // The study's test_domain and seed.
        "test_domains",
        "test_envs",
        "hold_out",
        "seed",
        "trial_seed",
        // [compare] says which there are; a study compares default hyper-parameters.
        "algorithm",
        "variant",
        "hparams_seed",
        // What to paint comes from [prompts], and a run paints all of it.
        "prompt",
        "prompts",
        "shard",
        "init",
        "init_from",
        // How to go about it, and how to print.
        "adapters",
        "preview",
        "json",
        "help",
    ];

    #[test]
    fn run_toml_has_every_flag_of_its_stages() {
        let text = "data = 'd'\ntest_domain = 't'\nimages.model = 'm'\nscore.clip = 'c'\n";
        let study = Study::parse(text, "run.toml").unwrap();
        let values = [
            "true",
            "12",
            "0.5",
            "[5, 1]",
            "[32, 32]",
            "[\"MLDG\"]",
            "dbhead",
            "{lr = 1}",
            "a/b",
            "v_prediction",
            "cuda",
            "chunk",
            "synth",
            "class",
            "false",
            "drop",
        ];
        let mut all = 0;
        let tables = [
            ("prompts", "prompts"),
            ("generate", "images"),
            ("select", "select"),
            ("score", "score"),
            ("train", "train"),
        ];
        for (command, table) in tables {
            let cli = Cli::command();
            let flags = cli.find_subcommand(command).unwrap().get_arguments();
            // Which CLIP it is, [score] says.
            let elsewhere = |id: &str| ELSEWHERE.contains(&id) || (command, id) == ("select", "clip");
            for flag in flags.filter(|f| !elsewhere(f.get_id().as_str())) {
                let key = flag.get_long().unwrap().replace('-', "_");
                let set = |value: &&str| {
                    let changed = study.clone().with(&[format!("{table}.{key}={value}")]);
                    changed.is_ok_and(|changed| changed != study)
                };
                assert!(values.iter().any(set), "{table}.{key} cannot be set");
                all += 1;
            }
        }
        assert!(all > 30, "{all} flags were tried");
    }

    #[test]
    fn flags_of_before_hold() {
        let flags =
            ["kaleid", "train", "--data", "d", "--out", "o", "--plain-validation", "--skip-train-accuracy"];
        let cli = Cli::try_parse_from(flags.map(|f| commands::renamed(f.into()))).unwrap();
        let Command::Train(args) = cli.command else { panic!("another command") };
        assert!(!args.training.settings.val_augment && !args.training.settings.train_accuracy);
    }
}
