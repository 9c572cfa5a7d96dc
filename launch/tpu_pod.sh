#!/usr/bin/env bash
# A training run on TPU VM slices by gcloud. Every command is printed before it runs; with --dry_run it is only printed.
#
#   bash launch/tpu_pod.sh ACTION --name=NAME --zone=ZONE --type=v5litepod-16 --workdir=gs://BUCKET/DIR --config=CONFIG [options]
#
# ACTION  up      create, setup, start, then follow; when the slice is taken away, from the start again until the run ends
#         create  a queued resource, and wait until it is there
#         setup   copy this checkout to every host and install what it needs
#         start   launch/main.py on every host, which goes on from the workdir's last checkpoint
#         follow  the output of host 0
#         stop    SIGTERM to every host: the state is saved and they exit
#         delete  the slices
# --version=v2-alpha-tpuv5-lite   the runtime version that goes with the type
# --num_slices=1  --spot  --project=PROJECT  --dry_run
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "tpu_pod: $*" >&2
    exit 2
}

action=${1:-}
case $action in
    up | create | setup | start | follow | stop | delete) shift ;;
    *) fail "give an action first: up, create, setup, start, follow, stop or delete" ;;
esac
name= zone= type= workdir= config= project= spot= dry_run= num_slices=1 version=v2-alpha-tpuv5-lite
for argument; do
    case $argument in
        --name=* | --zone=* | --type=* | --workdir=* | --config=* | --project=* | --num_slices=* | --version=*)
            argument=${argument#--}
            printf -v "${argument%%=*}" %s "${argument#*=}"
            ;;
        --spot) spot=1 ;;
        --dry_run) dry_run=1 ;;
        *) fail "unknown argument $argument" ;;
    esac
done
[ -n "$name" ] && [ -n "$zone" ] || fail "--name and --zone are needed"
case $action in up | create) [ -n "$type" ] || fail "--type is needed, such as v5litepod-16" ;; esac
case $action in
    up | start)
        [ -n "$config" ] || fail "--config is needed, such as configs/coding.py:llada,init_from=gs://BUCKET/llada"
        [[ $workdir == gs://* ]] || fail "--workdir must be a gs:// address, where checkpoints outlive the slice"
        ;;
esac
[[ $num_slices =~ ^[1-9][0-9]*$ ]] || fail "--num_slices=$num_slices must be a positive number"
[ -n "$dry_run" ] || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

where=(--zone="$zone" ${project:+--project="$project"})
nodes=("$name")
[ "$num_slices" = 1 ] || for ((slice = 0, nodes = 0; slice < num_slices; slice++)); do nodes[slice]=$name-$slice; done

exec 3>&1 # for the commands, also where a command's output is read

run() {
    { printf '+' && printf ' %q' "$@" && echo; } >&3
    [ -n "$dry_run" ] || "$@"
}

on_every_host() {
    local node
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1"
    done
}

state() {
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
}

create() {
    local node=(--node-id="$name")
    [ "$num_slices" = 1 ] || node=(--node-count="$num_slices" --node-prefix="$name")
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" "${node[@]}" \
        --accelerator-type="$type" --runtime-version="$version" ${spot:+--spot}
    until state | grep -q ACTIVE || [ -n "$dry_run" ]; do sleep 30; done
}

setup() {
    local archive node
    archive=$(mktemp -u --suffix=.tar.gz)
    run git archive --format=tar.gz --output="$archive" HEAD
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$archive" "$node:gdsd_jax.tar.gz" "${where[@]}" --worker=all
    done
    run rm -f "$archive"
    on_every_host "mkdir -p gdsd_jax && tar -xzf gdsd_jax.tar.gz -C gdsd_jax && cd gdsd_jax && bash -c 'source launch/setup.sh' && .venv/bin/pip install -q gcsfs"
}

start() {
    local command
    printf -v command '.venv/bin/python launch/main.py --config=%q --workdir=%q' "$config" "$workdir"
    on_every_host "cd gdsd_jax && rm -f run.code && (nohup sh -c '$command; echo \$? >run.code' >run.log 2>&1 & echo \$! >run.pid)"
}

# Ends when the run does, with its exit code; 1 when the host cannot be reached.
follow() {
    run gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${where[@]}" --worker=0 \
        --command="cd gdsd_jax && tail -n +1 --pid=\$(cat run.pid) -F run.log && exit \$(cat run.code)"
}

stop() {
    on_every_host "pkill -TERM -P \$(cat gdsd_jax/run.pid)"
}

delete() {
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet
}

up() {
    local code
    while true; do
        create && setup && start
        code=0
        follow || code=$?
        case $code in
            0) break ;;
            2) fail "the run refused its configuration, see above; the slice is still there" ;;
        esac
        if state | grep -q ACTIVE; then
            fail "the run ended with code $code, see above; the slice is still there: start it again, or delete it"
        fi
        echo "tpu_pod: the slice was taken away; asking for another"
        delete
    done
    delete
}

"$action"
