#!/usr/bin/env bash
# Tests --launcher slurm on a real Slurm of one node, on this machine alone (loopback).
#
#   bash scripts/slurm_test.sh [FOLDER]
#
# Runs three methods of rotation and of metaweightnet at preset smoke through it, interrupts three of
# the jobs (requeued as by preemption; warned of its time limit; cancelled), and compares all records
# with those of --launcher local, bit for bit. FOLDER keeps the runs, so that the same command goes on
# after a kill; without it they are removed. Needs: Debian's slurm-wlm and munge, installed but not
# running; a root shell, or slurmd that runs without. Takes: some three minutes on two free cores, on
# a crowded machine much longer; given up after 15 minutes without progress, or after two hours.
set -euo pipefail
runs=${1:+$(realpath -m "$1")}
cd "$(dirname "$0")/.."
for program in munged slurmctld slurmd sbatch; do
  if ! PATH=$PATH:/usr/sbin command -v "$program" > /dev/null; then
    echo "error: $program is not installed: apt-get install slurm-wlm munge" >&2
    exit 2
  fi
done
PATH=$PATH:/usr/sbin
bash scripts/setup.sh

scratch=$(mktemp -d)
runs=${runs:-$scratch}
daemons=()
clean_up() {
  status=$?
  trap - EXIT
  # Jobs outlive Slurm's daemons.
  scancel --full --signal=KILL --user="$(id -un)" &> /dev/null || true
  for _ in $(seq 50); do squeue --noheader 2> /dev/null | grep -q . || break; sleep 0.2; done
  for daemon in "${daemons[@]}"; do kill "$daemon" 2> /dev/null || true; done
  wait "${daemons[@]}" 2> /dev/null || true
  if [ "$status" -ne 0 ]; then tail -n 20 "$scratch"/*.log >&2 || true; fi
  rm -rf "$scratch"
  exit "$status"
}
trap clean_up EXIT
test=
stop() { if [ -n "$test" ]; then kill "$test" 2> /dev/null && wait "$test"; fi || true; exit "$1"; }
trap 'stop 130' INT
trap 'stop 143' TERM HUP

# A key, sockets, ports and folders of its own: a Slurm that is installed is not used or disturbed.
mkdir "$scratch/munge" "$scratch/state" "$scratch/spool"
chmod 755 "$scratch"
chmod 711 "$scratch/munge"
(umask 077 && head -c 128 /dev/urandom > "$scratch/munge/key")
read -r controller node < <(.venv/bin/python -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))')
cat > "$scratch/slurm.conf" << END
ClusterName=scratch
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$controller
SlurmdPort=$node
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
AuthInfo=socket=$scratch/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=10
StateSaveLocation=$scratch/state
SlurmdSpoolDir=$scratch/spool
SlurmctldPidFile=$scratch/slurmctld.pid
SlurmdPidFile=$scratch/slurmd.pid
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2
PartitionName=test Nodes=localhost Default=YES MaxTime=60 State=UP
END
export SLURM_CONF=$scratch/slurm.conf

munged --foreground --force --key-file "$scratch/munge/key" --socket "$scratch/munge/socket" \
  --pid-file "$scratch/munge/pid" --seed-file "$scratch/munge/seed" \
  --log-file "$scratch/munge/log" &> "$scratch/munged.log" &
daemons+=($!)
for _ in $(seq 50); do [ -S "$scratch/munge/socket" ] && break; sleep 0.1; done
slurmctld -D &> "$scratch/slurmctld.log" &
daemons+=($!)
slurmd -D -N localhost &> "$scratch/slurmd.log" &
daemons+=($!)
for _ in $(seq 100); do sinfo --noheader --states=idle 2> /dev/null | grep -q . && break; sleep 0.2; done

timeout 7200 .venv/bin/python -m scripts.slurm_test "$runs" &
test=$!  # bash would notice a signal only when a command in the foreground has ended
wait "$test"
