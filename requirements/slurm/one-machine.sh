#!/bin/sh
# A Slurm of one node on this machine, from Debian's packages, to try or test CLUSTER=slurm with:
#   one-machine.sh [start [CORES]]    as root; may be run again; CORES can be more than the machine has
#   one-machine.sh stop
# It needs no systemd, and leaves a Slurm that something else configured alone.
set -eu

CONF=/etc/slurm/slurm.conf
MARK='# Written by one-machine.sh; a Slurm of one node to test with.'

fail() {
    echo "one-machine: $*" >&2
    exit 1
}

# Wait up to 20 seconds for a command to succeed.
until_true() {
    tries=0
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 40 ] || return 1
        sleep 0.5
    done
}

running() {
    [ -f "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null
}

end() {
    if running "$1"; then
        pid=$(cat "$1")
        kill "$pid"
        until_true sh -c "! kill -0 $pid" || kill -9 "$pid"
    fi
    rm -f "$1"
}

stop() {
    end /run/slurmd.pid
    end /run/slurm/slurmctld.pid
}

packages() {
    if ! command -v slurmctld slurmd munged sinfo >/dev/null; then
        command -v apt-get >/dev/null || fail 'Slurm is not installed and there is no apt-get to install slurm-wlm and munge with'
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq || fail 'no mirror of Debian packages can be reached'
        apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null || fail 'slurm-wlm and munge were not installed'
    fi
}

# One partition; jobs get cores and memory of their own; what ended is remembered for five minutes.
configuration() {
    name=$(hostname -s)
    memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
    cat <<END
$MARK
ClusterName=one
SlurmctldHost=$name(127.0.0.1)
SlurmUser=slurm
AuthType=auth/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=300
KillWait=5
NodeName=$name NodeAddr=127.0.0.1 CPUs=$1 RealMemory=$memory State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    [ "$(id -u)" -eq 0 ] || fail 'installing packages and starting daemons needs root'
    case $1 in '' | *[!0-9]* | 0*) fail "CORES=$1 is not allowed: give a whole number from 1 up" ;; esac
    packages
    if [ -s "$CONF" ] && [ "$(head -n 1 "$CONF")" != "$MARK" ]; then
        fail "$CONF is there and was not written by this script; it is left alone"
    fi
    wanted=$(configuration "$1")
    if [ ! -f "$CONF" ] || [ "$(cat "$CONF")" != "$wanted" ]; then
        stop
        mkdir -p "$(dirname "$CONF")"
        printf '%s\n' "$wanted" >"$CONF"
    fi

    install -d -o munge -g munge -m 755 /run/munge
    [ -s /etc/munge/munge.key ] || runuser -u munge -- mungekey --create
    munge -n >/dev/null 2>&1 || runuser -u munge -- munged
    until_true munge -n || fail 'munged does not answer; see /var/log/munge'

    install -d -o slurm -g slurm -m 755 /run/slurm /var/log/slurm /var/lib/slurm /var/lib/slurm/slurmctld
    install -d -m 755 /var/lib/slurm/slurmd
    running /run/slurm/slurmctld.pid || slurmctld
    until_true scontrol ping || fail 'slurmctld does not answer; see /var/log/slurm'
    running /run/slurmd.pid || slurmd
    until_true sh -c "sinfo --noheader --format %t | grep -Eqx 'idle|mix|alloc'" ||
        fail "the node is not ready: $(sinfo --noheader --Node --long)"
    sinfo --format '%P %T %c cores %m MB'
}

case ${1:-start} in
start) start "${2:-$(nproc)}" ;;
stop) stop ;;
*) fail 'give start [CORES] or stop' ;;
esac
