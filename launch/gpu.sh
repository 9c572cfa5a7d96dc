#!/usr/bin/env bash
# What one GPU tells in fifteen minutes, beside what launch/plan.py predicts of it, in OUT/gpu.json:
#   bash launch/gpu.sh [--out=runs/gpu] [--size=tiny]
# A part that is done is not done again: delete its file in OUT for that. Each has a limit of seconds, 870 together; one
# that fails or exceeds it is told in the JSON, and the others go on. --size=tiny tries the script, on a CPU too, and
# leaves each part three times as long.
# PYTHON is the interpreter, by default that of .venv.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=runs/gpu size=llada_8b dtype=bfloat16 longer=1
for flag; do
    case $flag in
        --out=?*) out=${flag#*=} ;;
        --size=tiny) size=tiny dtype=float32 longer=3 ;; # cuDNN is left out there, which is told
        --size=llada_8b) ;;
        *)
            echo "error: $flag: give --out=FOLDER, --size=tiny or nothing" >&2
            exit 2
            ;;
    esac
done
if [ -z "${PYTHON:-}" ]; then
    source launch/setup.sh
fi
# the plan's share too; under its older name jax refuses it beside this one
[ -n "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ] || export XLA_CLIENT_MEM_FRACTION="${XLA_CLIENT_MEM_FRACTION:-.9}"
mkdir -p "$out"

part() { # NAME SECONDS COMMAND...: writes OUT/NAME.json, or why there is none to OUT/NAME.failed
    local name=$1 seconds=$((longer * $2)) code=0
    shift 2
    rm -f "$out/$name.failed"
    if [ -s "$out/$name.json" ]; then
        echo "$name: done before"
        return
    fi
    echo "$name: at most $seconds s"
    timeout -k 5 "$seconds" "$PYTHON" "$@" --json="$out/$name.part" 2>&1 | tee "$out/$name.log" || code=$?
    if [ -s "$out/$name.part" ]; then # a plan that does not fit ends with 3 and is one
        mv "$out/$name.part" "$out/$name.json"
    elif [ $code = 124 ] || [ $code = 137 ]; then
        echo "not done in $seconds s" >"$out/$name.failed"
    else
        echo "exit code $code: $(tail -n 1 "$out/$name.log")" >"$out/$name.failed"
    fi
    gather
}

gather() { # one JSON of what there is
    "$PYTHON" - "$out" <<'END'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
found = {}
for name in ("attention", "rollout", "round", "plan", "samplers", "update"):
    if (out / f"{name}.json").exists():
        found[name] = json.loads((out / f"{name}.json").read_text())
    elif (out / f"{name}.failed").exists():
        found[name] = {"failed": (out / f"{name}.failed").read_text().strip()}
if "seconds" in found.get("round", {}).get("round", {}):
    whole, memory = found["round"]["round"], found["round"]["memory"]
    shares = {name: share * whole["seconds"] for name, share in whole["shares"].items()}
    beside = {
        "rollout_s": {"measured": shares["rollout"]},
        "update_s": {"measured": shares["updates"] / whole["settings"]["inner_iterations"]},
        "scores_s": {"measured": whole["scoring"] * whole["seconds"]},
        "peak_gib": {"measured": memory.get("device_peak_mib", 0) / 1024 or None},
    }
    plan = found.get("plan", {})
    if "prediction" in plan:
        guess = plan["prediction"]
        beside["rollout_s"]["predicted"] = guess["rollout_s"]
        beside["update_s"]["predicted"] = guess["update_s"]
        beside["scores_s"]["predicted"] = guess["score_s"]
        peaks = [one["total"] for one in plan["programs"].values()]
        beside["peak_gib"]["predicted"] = max(peaks) / 2**30
    found["measured_and_predicted"] = beside
text = json.dumps(found, indent=1) + "\n"
(out / "gpu.json.part").write_text(text)
(out / "gpu.json.part").replace(out / "gpu.json")
END
}

card() { # the name that --topology knows this GPU by; nothing where it knows none
    "$PYTHON" - "$out" <<'END'
import json, pathlib, sys

sys.path.insert(0, ".")
from gdsd_jax.topologies import GPUS

files = pathlib.Path(sys.argv[1]).glob("*.json")
kinds = {json.loads(file.read_text()).get("device") for file in files}
print(*[name for name, known in GPUS.items() if known[0] in kinds][:1], end="")
END
}

# a round of adapters, the recipe's but for the rows: of bench.py, and the same of plan.py
adapters=lora_rank=128,lora_alpha=64,remat=full,inner_iterations=2
[ $size = llada_8b ] || adapters=lora_rank=2,lora_alpha=2,inner_iterations=2
same=$adapters,prompts_per_round=1,group_size=2,mask_draws=4,slices=1,minibatches=1,gdsd.beta=0.05,probe_rows=0
same=$same,prompt_length=400,sampler.gen_length=256,sampler.block_length=32,sampler.steps=256
bench=(launch/bench.py --size=$size --dtype=$dtype)
part attention 90 "${bench[@]}" --parts=attention
part rollout 120 "${bench[@]}" --parts=rollout
part round 240 "${bench[@]}" --parts=round --settings=$adapters
card=$(card)
if [ -n "$card" ]; then
    part plan 120 launch/plan.py --config=configs/coding.py:llada,$same --topology="$card:1"
else
    echo "plan: left out, plan.py knows no such card as this device" | tee "$out/plan.failed"
fi
part samplers 200 "${bench[@]}" --parts=samplers
if [ $size = tiny ]; then
    part update 100 "${bench[@]}" --parts=update
else
    echo "update: left out, all weights and their moments take more than one GPU; the round has one of adapters" |
        tee "$out/update.failed"
fi
gather
echo "written: $out/gpu.json"
