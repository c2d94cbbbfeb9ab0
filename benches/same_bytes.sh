#!/bin/sh
# Does a change leave every byte that Kaleid writes as it was? Runs the program on the built-in data (a quick run, each algorithm for
# three steps, samplers, a planned sweep, the goldens) and prints one checksum per file; recorded times are taken out first.
#
#     benches/same_bytes.sh target/release/kaleid OUT > before.txt     # and with the changed program: after.txt
#     diff before.txt after.txt
#
# Both times in a folder of the same path: the names of jobs are hashes of settings, of which the data folder is one.
set -eu
kaleid=$(realpath "$1")
out=$2
mkdir -p "$out"
cd "$out"

"$kaleid" run --quick --seed 3 --out run 2>run.log

common="--data run/data --test-domain openmoji --extra run/images --variant qd --arch resnet18 --width 16 --stem 3 1 --size 32
    --batch 4 --lr 0.001 --checkpoint-freq 2 --log-every 1 --steps 3"
for algorithm in ERM Fish IRM GroupDRO Mixup MLDG CORAL MMD DANN CDANN MTL SagNet VREx RSC SD ANDMask SelfReg Fishr IB_ERM IB_IRM \
    CausIRL_CORAL CausIRL_MMD EQRM ERMPlusPlus; do
    # shellcheck disable=SC2086
    "$kaleid" train $common --algorithm "$algorithm" --out "train/$algorithm" >/dev/null 2>train.log
done
extra="train/special"
# shellcheck disable=SC2086
{
    "$kaleid" train $common --swad --out $extra/swad
    "$kaleid" train $common --average-from 1 --f16-activations --out $extra/average
    "$kaleid" train $common --preset db2020 --fixed MLDG --algorithm MLDG --recompute --out $extra/db2020
    "$kaleid" train $common --preset dbhead --hparams-seed 2 --trial-seed 1 --seed 5 --algorithm RSC --plain-validation \
        --skip-train-accuracy --hold-out-concepts --include-test-style --holdout-fraction 0.3 --out $extra/dbhead
} >/dev/null 2>train.log

"$kaleid" sweep plan sweep --data-dir run --datasets data --algorithms ERM MLDG --variants o qd --extra run/images --arch resnet18 \
    --width 16 --n-hparams 2 --n-trials 1 --steps 3 --size 32 --stem 3 1 --total-batch 6 >/dev/null 2>sweep.log || cat sweep.log >&2
for job in 0 79; do # their folders are named after hashes of their settings
    "$kaleid" sweep run sweep --job $job >/dev/null 2>sweep.log || cat sweep.log >&2
done
rm -f sweep/*/job.json sweep/*/claim.json # who ran them, and when
for scheduler in ddim pndm euler euler-karras euler-a dpmpp-2m dpmpp-2m-karras lcm ddpm; do
    "$kaleid" generate --model builtin --prompt "a dog in the style of noto" --scheduler "$scheduler" --steps 5 --seed 7 \
        --out "generate/$scheduler" >/dev/null 2>generate.log || echo "generate $scheduler: $(tail -1 generate.log)"
done
"$kaleid" verify --json >verify.json 2>/dev/null

find . -type f ! -name "*.log" ! -name sums.txt | LC_ALL=C sort | while read -r file; do
    case $file in
    *events.out* | *stages.json | *curves.svg | *report.html) continue ;; # times and names of times
    *out.txt | *err.txt) continue ;;
    *.jsonl | *.json) sum=$(sed -E -e "s,$PWD/,,g" -e 's/"(step_time|data_time|time|seconds|output_dir)": ?("[^"]*"|[^,}]*)//g' "$file" | sha256sum) ;;
    *) sum=$(sha256sum <"$file") ;;
    esac
    echo "${sum%% *}  $file"
done
