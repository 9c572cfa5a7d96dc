#!/usr/bin/env bash
# A training run on TPU VM slices by gcloud. Every command is printed before it runs; with --dry_run it is only printed.
#
#   bash launch/tpu_pod.sh ACTION --name=NAME --zone=ZONE --type=v5litepod-16 --workdir=gs://BUCKET/DIR --config=CONFIG [options]
#
# ACTION  up      create, setup, start and follow; when the slices are taken away, all of it again until the run has ended;
#                 then delete. Interrupted, the same command takes up what it finds.
#         create  a queued resource, and wait until it is there
#         setup   copy the last commit of this checkout to every host and install what it needs
#         start   launch/main.py on every host, which goes on from the workdir's last checkpoint
#         follow  the output of host 0; ends as the run does, with its exit code
#         stop    SIGTERM to every host: the state is saved and they exit
#         delete  the slices
# --num_slices=1  --spot  --project=PROJECT  --dry_run
# --version=VERSION   the runtime, by default the one that goes with the type
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() {
    echo "tpu_pod: $*" >&2
}

fail() {
    say "$*"
    exit 2
}

action=${1:-}
case $action in
    up | create | setup | start | follow | stop | delete) shift ;;
    *) fail "give an action first: up, create, setup, start, follow, stop or delete" ;;
esac
name='' zone='' type='' workdir='' config='' project='' version='' spot='' dry_run='' num_slices=1
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
[ -n "$version" ] || case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
esac
[ -n "$dry_run" ] || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

where=(--zone="$zone" ${project:+--project="$project"})
nodes=("$name")
[ "$num_slices" = 1 ] || for ((slice = 0; slice < num_slices; slice++)); do nodes[slice]=$name-$slice; done

exec 3>&1 # for the commands, also where a command's output is read

# A word as a shell reads it.
quoted() {
    [[ $1 =~ ^[[:alnum:]_./:=,@-]+$ ]] && echo "$1" || echo "${1@Q}"
}

run() {
    local word line=+
    for word; do line+=" $(quoted "$word")"; done
    echo "$line" >&3
    [ -n "$dry_run" ] || "$@" 3>&-
}

on_host_0() {
    run gcloud compute tpus tpu-vm ssh "${nodes[0]}" "${where[@]}" --worker=0 --command="$1"
}

on_every_host() {
    local node
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm ssh "$node" "${where[@]}" --worker=all --command="$1" || return
    done
}

# ACTIVE, WAITING_FOR_RESOURCES, SUSPENDED, ...; empty where there is none.
state() {
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null || true
}

create() {
    local node=(--node-id="$name")
    [ "$num_slices" = 1 ] || node=(--node-count="$num_slices" --node-prefix="$name")
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" "${node[@]}" \
        --accelerator-type="$type" --runtime-version="$version" ${spot:+--spot} || fail "$name could not be created, see above"
    arrive
}

# Waits until what was asked for is there.
arrive() {
    local now
    while now=$(state) && [ -z "$dry_run" ]; do
        case $now in
            ACTIVE) return ;;
            FAILED | SUSPEND*) fail "$name is $now and will not come: delete it, then create it again" ;;
        esac
        sleep 30
    done
}

setup() {
    local archive node
    archive=$(mktemp -u --suffix=.tar.gz)
    run git archive --format=tar.gz --output="$archive" HEAD || return
    for node in "${nodes[@]}"; do
        run gcloud compute tpus tpu-vm scp "$archive" "$node:gdsd_jax.tar.gz" "${where[@]}" --worker=all || return
    done
    run rm -f "$archive"
    on_every_host "mkdir -p gdsd_jax && tar -xzf gdsd_jax.tar.gz -C gdsd_jax && cd gdsd_jax && bash -c 'source launch/setup.sh' && .venv/bin/pip install -q gcsfs"
}

# A host where it runs already is left alone.
start() {
    local command
    command=".venv/bin/python launch/main.py --config=$(quoted "$config") --workdir=$(quoted "$workdir"); echo \$? >run.code"
    on_every_host "cd gdsd_jax && { kill -0 \$(cat run.pid) 2>/dev/null || { rm -f run.code; (trap '' HUP; $command) >run.log 2>&1 </dev/null & echo \$! >run.pid; }; }"
}

follow() {
    on_host_0 "cd gdsd_jax && tail -n +1 --pid=\$(cat run.pid) -F run.log; exit \$(cat run.code)"
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
        case $(state) in
            ACTIVE) ;;
            '') create ;;
            CREATING | ACCEPTED | PROVISIONING | WAITING_FOR_RESOURCES) arrive ;; # its place in the queue is kept
            *)
                delete
                create
                ;;
        esac
        code=0
        { setup && start && follow; } || code=$?
        case $code in
            0) break ;;
            2) fail "the run refused its configuration, see above; the slices are still there" ;;
        esac
        sleep 120 # until it shows whether the slices are taken away
        # where only the connection broke, the run goes on and there is no code
        if [ "$(state)" = ACTIVE ] && on_host_0 "cat gdsd_jax/run.code"; then
            say "the run ended with exit code $code, see above; the slices are still there: up goes on, delete removes them"
            exit "$code"
        fi
    done
    delete
}

"$action"
