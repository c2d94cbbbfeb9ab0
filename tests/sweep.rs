//! Sweeps: DomainBed's recorded one gives its tables and its folders; ours survives kills, two processes and jobs that fail.
//!
//! A real Slurm, which must be installed (Debian: `apt-get install --no-install-recommends slurm-wlm munge`), as root:
//! `cargo test --release --test sweep -- --ignored`

mod common;

use common::toy;
use kaleid::sweep::Sweep;
use kaleid::train::Variant;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/domainbed_sweep");

fn sweep(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kaleid"));
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command.arg("sweep").arg(args[0]).arg(dir).args(&args[1..]);
    command
}

/// What a command that must succeed prints.
#[track_caller]
fn says(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} says {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The one line of a command that must fail.
#[track_caller]
fn fails(output: Output) -> String {
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert!(lines.len() == 1 && !text.contains("panicked"), "{text}");
    lines[0].to_string()
}

/// Plans a sweep of small trainings on the toy data.
fn plan(data: &Path, dir: &Path, more: &[&str]) -> Command {
    let mut command = sweep(&["plan"], dir);
    command.arg("--data-dir").arg(data.parent().unwrap());
    command.arg("--datasets").arg(data.file_name().unwrap());
    command.args(["--algorithms", "ERM", "--single-test-envs", "--n-hparams", "1"]);
    if !more.contains(&"--n-trials") {
        command.args(["--n-trials", "1"]);
    }
    command.args(["--arch", "resnet18", "--width", "4", "--size", "16", "--stem", "3", "1"]);
    command.args(["--batch", "4", "--lr", "0.003"]).args(more);
    command
}

fn status(dir: &Path) -> Value {
    serde_json::from_str(&says(sweep(&["status", "--json"], dir))).unwrap()
}

fn counts(dir: &Path) -> [u64; 5] {
    let status = status(dir);
    ["done", "running", "incomplete", "failed", "not launched"]
        .map(|state| status["counts"][state].as_u64().unwrap())
}

/// Folders of jobs.
fn jobs(dir: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    all.filter(|p| p.join("claim.json").exists() || p.join("train.json").exists()).collect()
}

#[track_caller]
fn wait_for(what: &str, limit: u64, mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(limit), "no {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn domainbeds_recorded_sweep_gives_its_tables() {
    let runs = std::fs::read_to_string(format!("{RECORDED}/runs.jsonl")).unwrap();
    let runs: Vec<Value> = runs.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let dir = tempfile::tempdir().unwrap();
    for run in &runs {
        let row = |record: &Value| {
            let mut row = record.clone();
            row["args"] = run["args"].clone();
            row["hparams"] = run["hparams"].clone();
            row.to_string() + "\n"
        };
        let rows: String = run["records"].as_array().unwrap().iter().map(row).collect();
        let folder = dir.path().join(run["folder"].as_str().unwrap());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("results.jsonl"), rows).unwrap();
    }
    let expected = std::fs::read_to_string(format!("{RECORDED}/results.txt")).unwrap();
    assert_eq!(says(sweep(&["collect"], dir.path())), expected);
    assert_eq!(std::fs::read_to_string(dir.path().join("results.txt")).unwrap(), expected);

    let planned = Sweep {
        data_dir: runs[0]["args"]["data_dir"].as_str().unwrap().into(),
        datasets: vec![("VLCS".into(), ["C", "L", "S", "V"].map(String::from).to_vec())],
        algorithms: vec!["ERM".into()],
        variants: vec![Variant::O],
        extra: BTreeMap::new(),
        single_test_envs: false,
        trials: 2,
        hparams_seeds: 0..2,
        train: json!({"steps": 1001}).as_object().unwrap().clone(),
    };
    let own = planned.jobs(Path::new("")).unwrap().into_iter().map(|j| j.training.out.display().to_string());
    let recorded = runs.iter().map(|r| r["folder"].as_str().unwrap().to_string());
    assert_eq!(own.collect::<BTreeSet<_>>(), recorded.collect::<BTreeSet<_>>());

    // The hyper-parameters that validation on the training domains selects, as `kaleid train` takes them.
    let best = says(sweep(&["best", "--test-env", "0", "--hparams"], dir.path()));
    assert_eq!(serde_json::from_str::<Value>(&best).unwrap()["batch_size"], 39);
    let all = fails(sweep(&["best", "--hparams"], dir.path()).output().unwrap());
    assert!(all.contains("which do not compare: choose by --dataset"), "{all}");
    assert_eq!(says(sweep(&["best", "--json"], dir.path())).lines().count(), 2 * 4 * 2);

    let paper = says(sweep(&["collect", "--paper", "--format", "markdown"], dir.path()));
    assert!(paper.contains("| ERM | X (70.3) | 78.3 ± 0.0 (77.8) | X (84.4) |"), "{paper}");
}

#[test]
fn a_killed_sweep_goes_on_and_two_processes_share_it() {
    let temp = tempfile::tempdir().unwrap();
    let [data, dir, whole] = ["toy", "cut", "whole"].map(|n| temp.path().join(n));
    toy(&data);
    let more = ["--steps", "31", "--checkpoint-freq", "10"];
    let planned = says(plan(&data, &dir, &more));
    assert!(planned.contains("3 jobs (") && planned.contains("time: unknown"), "{planned}");
    assert!(planned.contains("disk: 0.00 GB"), "{planned}");
    assert_eq!(counts(&dir), [0, 0, 0, 0, 3]);

    let mut child = sweep(&["run"], &dir).stderr(Stdio::null()).spawn().unwrap();
    let began = || jobs(&dir).into_iter().find(|j| j.join("checkpoint.safetensors").exists());
    wait_for("checkpoint", 300, || began().is_some());
    let cut = began().unwrap();
    assert_eq!(counts(&dir)[1], 1);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!cut.join("done").exists(), "the job was over before it was killed");
    assert_eq!(counts(&dir), [0, 0, 1, 0, 2]);

    // Asked to end, it gives its job up.
    #[cfg(unix)]
    {
        let child = sweep(&["run"], &dir).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("job", 300, || counts(&dir)[1] == 1);
        // Time for the handler of the signal.
        std::thread::sleep(Duration::from_millis(300));
        Command::new("kill").arg(child.id().to_string()).status().unwrap();
        let line = fails(child.wait_with_output().unwrap());
        assert!(line.contains("stopped; the same command resumes from here"), "{line}");
        assert_eq!(counts(&dir)[1], 0);
    }

    let run = || sweep(&["run"], &dir).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let both = [run(), run()].map(|child| child.wait_with_output().unwrap());
    let mut started = vec![];
    for output in &both {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        let lines = text.lines().filter(|l| l.starts_with("job ") && l.contains(": toy "));
        started.extend(lines.map(str::to_string));
    }
    started.sort();
    let place = |line: &String| line.split_whitespace().nth(1).unwrap().to_string();
    assert_eq!(started.iter().map(place).collect::<Vec<_>>(), ["0:", "1:", "2:"], "{started:?}");
    assert_eq!(counts(&dir), [3, 0, 0, 0, 0]);
    assert!(jobs(&dir).iter().all(|j| j.join("done").exists() && !j.join("claim.json").exists()));

    // The job that was cut ended with the bytes of one that was not.
    assert!(says(plan(&data, &whole, &more)).contains("3 jobs"));
    let name = cut.file_name().unwrap();
    let place = (0..3).find(|i: &usize| {
        says(sweep(&["run", "--job", &i.to_string()], &whole));
        whole.join(name).exists()
    });
    assert!(place.is_some());
    let model = |dir: &Path| std::fs::read(dir.join(name).join("model.safetensors")).unwrap();
    assert!(model(&dir) == model(&whole));

    // All are done: nothing is left to run.
    let again = says(plan(&data, &dir, &more));
    assert!(again.contains("3 of them are done") && !again.contains("time:"), "{again}");
    assert!(says(sweep(&["run"], &dir)).contains("3 of 3 jobs are done"));
    let table = says(sweep(&["collect"], &dir));
    assert!(table.starts_with("Total records: 12\n"), "{table}");
    assert!(
        table.contains("Algorithm             art                   photo                 sketch  "),
        "{table}"
    );
    // A row of results for each of the two that can be, twice with balanced accuracies: the pairs of leave-one-domain-out validation were
    // left out.
    assert_eq!(table.matches("X                     X                     X  ").count(), 2, "{table}");
    assert!(table.contains("balanced accuracy (mean over classes)"), "{table}");

    // Another plan would mix up results.
    let other = fails(plan(&data, &dir, &["--steps", "9"]).output().unwrap());
    assert!(other.contains("holds 3 trainings that are not in this plan: choose another folder"), "{other}");
    // A larger one keeps them, and they tell how long it will take.
    let larger = says(plan(&data, &dir, &[&more[..], &["--n-trials", "2"]].concat()));
    assert!(larger.contains("6 jobs") && larger.contains("time: about 0.0 hours"), "{larger}");
}

#[test]
fn a_job_that_fails_is_tried_twice_and_marked() {
    let temp = tempfile::tempdir().unwrap();
    let [data, extra, dir] = ["toy", "extra", "sweep"].map(|n| temp.path().join(n));
    toy(&data);
    // One generated picture of the new domain is broken, which only variant d will meet.
    let pictures = data.join("art/up");
    std::fs::create_dir_all(extra.join("neon/up")).unwrap();
    for i in 0..8 {
        let name = format!("{i}.png");
        std::fs::copy(pictures.join(&name), extra.join("neon/up").join(&name)).unwrap();
    }
    let broken = extra.join("neon/up/5.png");
    std::fs::write(&broken, "no picture").unwrap();
    let missing = fails(plan(&data, &dir, &["--variants", "o", "d"]).output().unwrap());
    assert!(missing.contains("variant d of toy needs --extra"), "{missing}");
    let more = ["--steps", "6", "--checkpoint-freq", "3", "--variants", "o", "d", "--extra"];
    says(plan(&data, &dir, &[&more[..], &[extra.to_str().unwrap()]].concat()));

    let output = sweep(&["run"], &dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).to_string();
    assert_eq!(text.matches("5.png").count(), 6, "{text}");
    assert_eq!(text.matches("it is tried once more").count(), 3, "{text}");
    assert!(fails(output).contains("3 jobs failed: `kaleid sweep status"));
    assert_eq!(counts(&dir), [3, 0, 0, 3, 0]);
    let status = status(&dir);
    assert!(status["failed"][0]["error"].as_str().unwrap().contains("5.png"), "{status}");
    assert_eq!(status["failed"][0]["args"]["variant"], "d");
    let rows = says(sweep(&["status"], &dir));
    assert!(rows.contains("ERM d") && rows.contains("failed: "), "{rows}");

    // Failed ones are left alone until they are asked for.
    fails(sweep(&["run"], &dir).output().unwrap());
    let alone = fails(sweep(&["run", "--job", "3"], &dir).output().unwrap());
    assert!(alone.contains("toy art ERM d, hparams 0, trial 0: ") && alone.contains("5.png"), "{alone}");
    std::fs::copy(pictures.join("5.png"), &broken).unwrap();
    let mut retry = sweep(&["run", "--retry-failed"], &dir);
    // Two workers, where no adapter is asked for.
    if ["KALEID_ADAPTER", "KALEID_BACKEND"].iter().all(|v| std::env::var_os(v).is_none()) {
        retry.args(["--adapters", "0,0"]);
    }
    assert!(says(retry).contains("6 of 6 jobs are done"));
    assert_eq!(counts(&dir), [6, 0, 0, 0, 0]);

    let paper = says(sweep(&["collect", "--paper"], &dir));
    let row = paper.lines().find(|l| l.starts_with("ERM ")).unwrap();
    assert_eq!(row.matches(" X ").count(), 2, "o, d and the chosen one of them are there: {row}");

    // A torn line and NaN are warned of, not counted.
    let job = jobs(&dir).into_iter().next().unwrap().join("results.jsonl");
    let whole = std::fs::read_to_string(&job).unwrap();
    let first = whole.lines().next().unwrap();
    let loss = first.find("\"loss\": ").unwrap() + 8;
    let rest = first[loss..].find(',').unwrap() + loss;
    let nan = format!("{}NaN{}", &first[..loss], &first[rest..]);
    std::fs::write(&job, format!("{nan}\n{}", &first[..loss])).unwrap();
    let output = sweep(&["collect"], &dir).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("line 2: the line was cut; it is left out"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn mistakes_are_told_in_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let [data, dir] = ["toy", "sweep"].map(|n| temp.path().join(n));
    toy(&data);
    let says_of = |more: &[&str]| fails(plan(&data, &dir, more).output().unwrap());
    assert!(says_of(&["--algorithms", "CORRAL"]).contains("no algorithm CORRAL: did you mean CORAL?"));
    let typo = says_of(&["--hparams", "{\"lrr\": 1}"]);
    assert!(
        typo.contains(
            "every job would fail, such as toy art ERM o, hparams 0, trial 0: no hyper-parameter lrr"
        ),
        "{typo}"
    );
    assert!(
        says_of(&["--weights", "nowhere.safetensors"])
            .contains("nowhere.safetensors: cannot open the weights")
    );
    assert!(says_of(&["--n-hparams-from", "1"]).contains("leave nothing to run"));
    assert!(
        says_of(&["--slurm", "--slurm-option", "gpu"])
            .contains("--slurm-option 'gpu': it must be one of sbatch's")
    );
    assert!(says_of(&["--extra", "PACS=x", "--datasets", "toy", "toy2"]).contains("toy2"));
    for command in [&["run"][..], &["status"]] {
        std::fs::remove_dir_all(&dir).ok();
        let line = fails(sweep(command, &dir).output().unwrap());
        assert!(line.contains("sweep.json: no sweep here; `kaleid sweep plan` makes one"), "{line}");
    }
    assert!(fails(sweep(&["collect"], &dir).output().unwrap()).contains("cannot list the folder"));
    says(plan(&data, &dir, &[]));
    let line = fails(sweep(&["run", "--job", "9"], &dir).output().unwrap());
    assert!(line.contains("--job 9: ") && line.contains("has jobs 0 to 2"), "{line}");
    assert!(fails(sweep(&["best"], &dir).output().unwrap()).contains("no results that this choice"));
    std::fs::write(dir.join("sweep.json"), "{\"data_dir\": 3}").unwrap();
    assert!(fails(sweep(&["run"], &dir).output().unwrap()).contains("no plan of a sweep"));
}

/// Daemons of a cluster of this machine alone, in a folder of their own.
struct Cluster {
    folder: PathBuf,
    daemons: Vec<std::process::Child>,
}

impl Cluster {
    fn start(folder: &Path) -> Cluster {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_string();
        let at = folder.display();
        for part in ["state", "spool"] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
        }
        let conf = format!(
            "ClusterName=test\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort=16817\nSlurmdPort=16818\nSlurmUser=root\n\
             AuthType=auth/munge\nAuthInfo=socket={at}/munge.socket,cred_expire=5\nStateSaveLocation={at}/state\n\
             SlurmdSpoolDir={at}/spool\nSlurmctldPidFile={at}/slurmctld.pid\nSlurmdPidFile={at}/slurmd.pid\n\
             ProctrackType=proctrack/pgid\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n\
             SelectType=select/cons_tres\nSelectTypeParameters=CR_Core\nMpiDefault=none\nReturnToService=2\n\
             GresTypes=gpu\nNodeName={host} NodeAddr=127.0.0.1 CPUs=2 Gres=gpu:2 State=UNKNOWN\n\
             PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP\n"
        );
        let files = ["gpu0", "gpu1"].map(|f| (f, String::new()));
        let gres = format!("NodeName={host} Name=gpu File={at}/gpu[0-1]\n");
        let key = (0..64).map(|i| format!("key {i} of a test")).collect::<String>();
        let more = [("slurm.conf", conf), ("gres.conf", gres), ("munge.key", key)];
        for (name, text) in files.into_iter().chain(more) {
            std::fs::write(folder.join(name), text).unwrap();
        }
        Command::new("chmod").arg("600").arg(folder.join("munge.key")).status().unwrap();
        let mut cluster = Cluster { folder: folder.into(), daemons: vec![] };
        let munge = [
            "key-file=munge.key",
            "socket=munge.socket",
            "pid-file=munge.pid",
            "log-file=munge.log",
            "seed-file=munge.seed",
        ];
        let munge: Vec<String> =
            munge.iter().map(|f| format!("--{}", f.replace('=', &format!("={at}/")))).collect();
        cluster.daemon("munged", Command::new("munged").args(["--force", "--foreground"]).args(munge));
        wait_for("munge", 30, || folder.join("munge.socket").exists());
        cluster.daemon("slurmctld", Command::new("slurmctld").arg("-D"));
        cluster.daemon("slurmd", Command::new("slurmd").args(["-D", "-N", &host]));
        wait_for("idle node", 60, || cluster.ask("sinfo", &["-h", "-o", "%T"]).trim() == "idle");
        cluster
    }

    fn daemon(&mut self, name: &str, command: &mut Command) {
        let log = || std::fs::File::create(self.folder.join(format!("{name}.out"))).unwrap();
        let command =
            command.env("SLURM_CONF", self.folder.join("slurm.conf")).stdout(log()).stderr(Stdio::null());
        self.daemons.push(command.spawn().unwrap_or_else(|e| panic!("{name}: {e}: is slurm-wlm installed?")));
    }

    fn ask(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .env("SLURM_CONF", self.folder.join("slurm.conf"))
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.ask("scancel", &["--user=root"]);
        for daemon in self.daemons.iter_mut().rev() {
            // They tidy up when they are asked to end.
            let _ = Command::new("kill").arg(daemon.id().to_string()).status();
            let _ = daemon.wait();
        }
    }
}

#[test]
#[ignore = "needs a Slurm, see above"]
fn slurm_runs_a_sweep() {
    let temp = tempfile::tempdir().unwrap();
    let [data, dir, whole, cluster] = ["toy", "sweep", "whole", "slurm"].map(|n| temp.path().join(n));
    toy(&data);
    let more = ["--steps", "301", "--checkpoint-freq", "50", "--slurm", "--throttle", "1"];
    let planned = says(plan(&data, &dir, &more));
    let script = planned.lines().find_map(|l| l.strip_prefix("sbatch ")).unwrap().to_string();
    let cluster = Cluster::start(&cluster);
    let submit = || {
        let said = cluster.ask("sbatch", &[&script]);
        said.trim().strip_prefix("Submitted batch job ").unwrap_or_else(|| panic!("{said}")).to_string()
    };
    let id = submit();
    let checkpoint = || jobs(&dir).into_iter().find(|j| j.join("checkpoint.safetensors").exists());
    let running = || cluster.ask("squeue", &["-h", "-t", "R", "-o", "%K"]).trim().to_string();

    // The first task is taken off and put back in the queue.
    wait_for("checkpoint", 120, || checkpoint().is_some());
    let first = checkpoint().unwrap();
    assert_eq!(running(), "0");
    cluster.ask("scontrol", &["requeue", &format!("{id}_0")]);
    // The next one is killed.
    wait_for("second task", 120, || running() == "1");
    let claimed = || {
        jobs(&dir).into_iter().filter(|j| *j != first).find_map(|j| {
            let claim: Value = serde_json::from_slice(&std::fs::read(j.join("claim.json")).ok()?).ok()?;
            claim["pid"].as_u64()
        })
    };
    wait_for("claim", 60, || claimed().is_some());
    Command::new("kill").args(["-9", &claimed().unwrap().to_string()]).status().unwrap();
    wait_for("empty queue", 300, || cluster.ask("squeue", &["-h"]).trim().is_empty());
    assert_eq!(counts(&dir), [2, 0, 1, 0, 0], "{}", cluster.ask("scontrol", &["show", "job"]));
    let log =
        |id: &str, task: u32| std::fs::read_to_string(dir.join(format!("slurm/{id}_{task}.log"))).unwrap();
    assert!(log(&id, 0).contains("stopped; the same command resumes from here"), "{}", log(&id, 0));
    let shown = cluster.ask("scontrol", &["show", "job", &format!("{id}_0")]);
    assert!(shown.contains("Restarts=1"), "{shown}");

    // Submitted again, the script does what is left.
    submit();
    wait_for("empty queue", 300, || cluster.ask("squeue", &["-h"]).trim().is_empty());
    assert_eq!(counts(&dir), [3, 0, 0, 0, 0]);
    says(plan(&data, &whole, &more));
    says(sweep(&["run", "--job", "0"], &whole));
    let model =
        |dir: &Path| std::fs::read(dir.join(first.file_name().unwrap()).join("model.safetensors")).unwrap();
    assert!(model(&dir) == model(&whole));
}
