#!/bin/bash
# fakehosts.sh - several hosts on this one machine, good enough for a multi-node Dragon runtime, Slurm, and PBS's stub.
#
#   fakehosts.sh build           install and fetch what is missing; the others do it too, when they need it
#   fakehosts.sh up N            make node0 to node(N-1)
#   fakehosts.sh run CMD...      run CMD on node0, in the current directory; NODE=2: on node2
#   fakehosts.sh pid N           print the process id, as seen from outside, of node N's pid 1
#   fakehosts.sh down            end all that runs on the hosts and remove them; after a crash of `up` too
#   fakehosts.sh slurm           start Slurm on all hosts (22.05; slurmctld and the batch scripts on node0)
#   fakehosts.sh pbs-run CMD...  run CMD on node0 as PBS runs a job over all hosts (a stub: see pbs/)
# Faults, until `down`:
#   fakehosts.sh kill N          every process of the host is gone; its kernel still closes the connections
#   fakehosts.sh cut N           nothing reaches the host any more, nor gets out; with kill after it: a power failure
#   fakehosts.sh refuse N        its sshd ends: new connections are refused, those that are open live on
#   fakehosts.sh alias NAME TO   on every host NAME is TO's address; TO is a host, or nobody (10.77.0.250)
#   fakehosts.sh fill N DIR      DIR (/tmp or /dev/shm) of the host is full
#   fakehosts.sh hide N DIR      DIR is an empty directory on the host; processes that are in it keep it
#
# A host is a net, mount, pid, uts, ipc and time namespace: eth0 10.77.0.(10+i) on a switch in a namespace of its own, so
# nothing leaves the rig; own /tmp, /dev/shm, /run, hostname, machine-id, boot_id (Dragon's host id), uptime; an sshd with
# keys of the rig. All else of the file system is the machine's, like a cluster's shared disk, and so are CPUs and memory.
#
# Read by `up`, one word a host ("none" and "-" leave it out):
#   CPUS="0-1 0"                 CPUs that the host's processes may use
#   NUMA="0/1 0,1"               NUMA domains as CPU lists: node0 has two, node1 has one; sysfs says so, memory policies do not
#   GPUS="nvidia:4 amd:2"        the vendor's run-time library, a stub (fakegpu.c), first in LD_LIBRARY_PATH of `run`
#   TMP_MB="- 1"  SHM_MB="- 64"  sizes of /tmp and /dev/shm in MiB
#   CLOCKS="0 -3600"             seconds by which the wall clock of what `run` and ssh start there is wrong (fakeclock.c),
#                                and of what that starts on other hosts with its LD_PRELOAD
# And: RIG, the rig's directory (default: one a checkout), whose last part names its namespaces; VENV, the Python environment
# of `run` (default: $PYTHON's, else the checkout's .venv); KEEP="DIR..." of /tmp that hosts see besides the checkout.
set -euo pipefail

HERE=$(dirname "$(readlink -f "$0")")
CHECKOUT=$(dirname "$(dirname "$HERE")")
RIG=${RIG:-/tmp/fakehosts-$(cksum <<<"$CHECKOUT" | cut -d' ' -f1)}
PREFIX=${RIG##*/}
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/rankmap-fakehosts
# paths on the hosts
GPULIB=/run/fakegpu
STATE=/run/rig

die() { echo "fakehosts: $*" >&2; exit 1; }
word() { local words; read -ra words <<<"$2"; echo "${words[$1]:-none}"; }          # word I "LIST"
namespaces() {  # not those of a rig whose name only begins like this one's
  ip netns list | awk -v prefix="$PREFIX-" 'index($1, prefix) == 1 && substr($1, length(prefix) + 1) ~ /^(switch|node[0-9]+)$/ {print $1}'
}
in_host() {
  local pid cpus; pid=$(pid "$1"); cpus=$(cpus_of "$pid"); shift
  taskset -c "$cpus" nsenter -t "$pid" --mount --uts --ipc --net --pid "$@"
}
cpus_of() { taskset -cp "$1" | sed 's/.*: //'; }

pid() {  # the one process that is number 1 in the innermost of several pid namespaces
  local pid
  for pid in $(ip netns pids "$PREFIX-node$1" 2>/dev/null); do
    if awk '/^NSpid:/ {exit !(NF > 2 && $NF == 1)}' "/proc/$pid/status" 2>/dev/null; then echo "$pid"; return; fi
  done
  die "node$1 is not up in $RIG"
}

# ---- up and down -----------------------------------------------------------------------------------------------

install_tools() {
  local missing=()
  [ -x /usr/sbin/sshd ] || missing+=(openssh-server)
  command -v ssh >/dev/null || missing+=(openssh-client)
  command -v ip >/dev/null || missing+=(iproute2)
  [[ -z ${GPUS:-}${CLOCKS:-} ]] || command -v cc >/dev/null || missing+=(gcc libc6-dev)
  ldconfig -p | grep -q libnuma.so.1 || missing+=(libnuma1)
  [ ${#missing[@]} = 0 ] || { apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"; } >/dev/null
}

build() {
  [ "$(id -u)" = 0 ] || die "build needs root (apt-get)"
  mkdir -p "$(dirname "$CACHE")"
  install_tools
  unpack slurmctld slurmd slurm-client >/dev/null
}

unpack() {  # unpack PACKAGE...: what Debian's packages, and what they need, have and this machine has not; nothing is installed
  local tree=$CACHE/$1 missing
  exec 9>"$CACHE.lock"; flock 9
  if [ ! -e "$tree" ]; then
    [ -n "$(apt-cache policy "$1")" ] || apt-get update -q
    missing=$(apt-get install -s --no-install-recommends "$@" | awk '/^Inst/ {print $2}')
    rm -rf "$tree.new"; mkdir -p "$tree.new/debs"
    # shellcheck disable=SC2086  # one word a package
    (cd "$tree.new/debs"; apt-get download -q -o APT::Sandbox::User=root $missing; for deb in *; do dpkg-deb -x "$deb" ..; done)
    rm -rf "$tree.new/debs"; mv "$tree.new" "$tree"
  fi >&2
  exec 9>&-
  echo "$tree"
}

up() {
  local n=$1 i
  [ "$(id -u)" = 0 ] || die "up needs root (namespaces)"
  [ ! -e "$RIG" ] || die "$RIG is there: already up, or left over; run '$0 down' first"
  mkdir -p "$(dirname "$CACHE")"
  install_tools
  VENV=${VENV:-$(venv)}
  [ -x "$VENV/bin/dragon" ] || die "no dragon in $VENV/bin: name a Python environment that has it with VENV="
  [ -z "$(namespaces)" ] || die "namespaces $PREFIX-* are left over: run '$0 down' first"
  trap '[ $? = 0 ] || { echo "fakehosts: up failed; logs:" >&2; cat "$RIG"/*.log >&2 || :; down; }' EXIT
  mkdir -p "$RIG/ssh"
  echo "$VENV" >"$RIG/venv"
  readlink -f "$VENV/bin/python" >"$RIG/python"      # for PBS's programs: there even where the environment is hidden
  cp -r "$HERE/pbs" "$RIG/pbs"
  ssh_files
  [ -z "${CLOCKS:-}" ] || cc -shared -fPIC -o "$RIG/fakeclock.so" "$HERE/fakeclock.c"
  echo "127.0.0.1 localhost" >"$RIG/hosts"
  ip netns add "$PREFIX-switch"; ip -n "$PREFIX-switch" link add br0 type bridge; ip -n "$PREFIX-switch" link set br0 up
  for ((i = 0; i < n; i++)); do
    echo "10.77.0.$((10 + i)) node$i" >>"$RIG/hosts"; echo "node$i" >>"$RIG/nodes"
    gpu_stub "$RIG/gpu$i" "$(word "$i" "${GPUS:-}")"
    network "$i"
    start "$i"
  done
  for ((i = 0; i < n; i++)); do
    for _ in $(seq 100); do [ ! -e "$RIG/node$i.up" ] || break; sleep 0.1; done
    [ -e "$RIG/node$i.up" ]
  done
  echo "up: $(awk '/node/ {printf "%s=%s ", $2, $1}' "$RIG/hosts")"
}

venv() {
  if [ -z "${PYTHON:-}" ]; then echo "$CHECKOUT/.venv"; else "$PYTHON" -c 'import sys; print(sys.prefix)'; fi
}

ssh_files() {  # one key pair for the user and all hosts; bound over /etc/ssh, on the hosts only
  ssh-keygen -q -t ed25519 -N '' -f "$RIG/ssh/id"
  printf '%s\n' 'HostKey /etc/ssh/id' 'AuthorizedKeysFile /etc/ssh/id.pub' 'PermitRootLogin yes' 'StrictModes no' \
    'UsePAM no' 'PasswordAuthentication no' 'MaxStartups 100' 'PidFile /run/sshd.pid' >"$RIG/ssh/sshd_config"
  printf '%s\n' 'Host *' ' User root' ' IdentityFile /etc/ssh/id' ' StrictHostKeyChecking no' \
    ' UserKnownHostsFile /dev/null' ' LogLevel ERROR' >"$RIG/ssh/ssh_config"
}

network() {
  local host=$PREFIX-node$1
  ip netns add "$host"
  ip -n "$PREFIX-switch" link add "v$1" type veth peer name eth0 netns "$host"
  ip -n "$PREFIX-switch" link set "v$1" master br0 up
  ip -n "$host" addr add "10.77.0.$((10 + $1))/24" dev eth0
  ip -n "$host" link set lo up; ip -n "$host" link set eth0 up
  ip -n "$host" route add default dev eth0       # Dragon asks which address faces 10.254.254.254
}

start() {
  local i=$1 cpus uptime=()
  cpus=$(word "$i" "${CPUS:-}"); [[ $cpus != [-n]* ]] || cpus=0-$(($(nproc --all) - 1))
  # hosts were never booted together; of the clocks, a time namespace moves these two only
  [ ! -e /proc/self/ns/time ] || uptime=(--time --monotonic $((100000 + 1000 * i)) --boottime $((100000 + 1000 * i)))
  # setsid: a ^C at the terminal must not reach the hosts
  setsid taskset -c "$cpus" nsenter --net="/run/netns/$PREFIX-node$i" \
    unshare --mount --uts --ipc --pid --fork --kill-child --propagation private "${uptime[@]}" \
    "$HERE/fakehosts.sh" __init "$i" "$RIG" "$(word "$i" "${NUMA:-}")" "$(word "$i" "${TMP_MB:-}")" "$(word "$i" "${SHM_MB:-}")" \
    "$(word "$i" "${CLOCKS:-}")" "$CHECKOUT $(readlink -f "$CHECKOUT/.venv") $VENV $(readlink -f "$VENV") ${KEEP:-}" \
    >"$RIG/node$i.log" 2>&1 </dev/null &
}

init() {  # becomes pid 1 of a host
  local i=$1 numa=$3 tmp=$4 shm=$5 clock=$6 keep=$7 dir id set_env=SHLVL=1
  hostname "node$i"
  mount -t proc proc /proc
  # not what this machine may have been set to: bbr holds back what MPI sends; reno is the one that every namespace may have
  echo reno >/proc/sys/net/ipv4/tcp_congestion_control
  mount -t tmpfs tmpfs /run; mkdir -p /run/sshd /run/machine "$STATE" "$GPULIB"
  mount --bind "$2" "$STATE"
  mount --rbind /tmp /run/machine
  mount -t tmpfs -o "mode=1777$(megabytes "$tmp")" tmpfs /tmp
  for dir in $(tr ' ' '\n' <<<"$keep" | sort -u); do
    [[ $dir != /tmp/* ]] || { mkdir -p "$dir"; mount --rbind "/run/machine${dir#/tmp}" "$dir"; }
  done
  umount -l /run/machine; rmdir /run/machine
  mount -t tmpfs -o "mode=1777$(megabytes "$shm")" tmpfs /dev/shm
  mount --bind "$STATE/gpu$i" "$GPULIB"
  mount --bind "$STATE/ssh" /etc/ssh
  mount --bind "$STATE/hosts" /etc/hosts
  touch /run/resolv.conf                          # no name server: an unknown name is said at once
  [ ! -e /etc/resolv.conf ] || mount --bind /run/resolv.conf /etc/resolv.conf
  # the smallest of the ids' last 16 digits makes Dragon's primary node: node0
  id=$(cat /proc/sys/kernel/random/uuid)
  echo "${id:0:19}0$(printf %03d $((i + 1)))${id:23}" >/run/boot_id
  tr -d - </run/boot_id >/run/machine-id
  mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
  [ ! -e /etc/machine-id ] || mount --bind /run/machine-id /etc/machine-id
  [[ $numa = [-n]* ]] || fake_numa "$numa"
  # SHLVL=1: bash then does not read ~/.bashrc on an ssh command, which may print
  [ ! -e "$STATE/fakeclock.so" ] || { echo "$clock" >/run/clock; set_env+=" LD_PRELOAD=$STATE/fakeclock.so"; }
  /usr/sbin/sshd -f /etc/ssh/sshd_config -E "$STATE/node$i.sshd.log" -o "SetEnv=$set_env"
  touch "$STATE/node$i.up"
  exec env --ignore-signal=CHLD sleep infinity    # with SIGCHLD ignored the kernel itself reaps orphans
}

megabytes() { [[ $1 = [-n]* ]] || echo ",size=${1}m"; }

fake_numa() {  # fake_numa 0/1: what libnuma, hwloc and lscpu read
  local root=/run/numa k=0 other cpus cpu mask domains
  IFS=/ read -ra domains <<<"$1"
  for cpus in "${domains[@]}"; do
    mkdir -p $root/node$k; echo "$cpus" >$root/node$k/cpulist; mask=0
    for cpu in ${cpus//,/ }; do mask=$((mask | 1 << cpu)); ln -s "/sys/devices/system/cpu/cpu$cpu" $root/node$k/; done
    printf '%x\n' $mask >$root/node$k/cpumap
    printf "Node $k MemTotal: %d kB\nNode $k MemFree: %d kB\n" $((1 << 20)) $((1 << 19)) >$root/node$k/meminfo
    for other in "${!domains[@]}"; do if [ "$other" = $k ]; then printf '10 '; else printf '20 '; fi; done >$root/node$k/distance
    k=$((k + 1))
  done
  for other in online possible has_cpu has_memory has_normal_memory; do seq -s, 0 $((k - 1)) >$root/$other; done
  mount --bind $root /sys/devices/system/node
  umount -l /sys/fs/cgroup 2>/dev/null || :      # hwloc leaves out a domain that no cpuset.mems there names
}

gpu_stub() {  # gpu_stub DIR nvidia:4
  mkdir -p "$1"
  case $2 in
    [-n]|none) ;;
    nvidia:*) cc -shared -fPIC -DDEVICES="${2#*:}" -o "$1/libcudart.so" "$HERE/fakegpu.c" ;;
    amd:*) cc -shared -fPIC -DHIP -DDEVICES="${2#*:}" -o "$1/libamdhip64.so" "$HERE/fakegpu.c" ;;
    *) die "GPUS: '$2' is not nvidia:COUNT, amd:COUNT or none" ;;
  esac
}

down() {  # whatever is in the hosts' network namespaces is the rig's: no file is needed to know it
  local name pids
  for name in $(namespaces); do
    for _ in $(seq 50); do
      pids=$(ip netns pids "$name")
      [ -n "$pids" ] || break
      # shellcheck disable=SC2086  # one word a process
      kill -9 $pids 2>/dev/null || :
      sleep 0.1
    done
    ip netns del "$name"
  done
  rm -rf "$RIG"
}

# ---- running something -----------------------------------------------------------------------------------------

run() {  # the caller's variables, but for those that name what is outside; of signals, kill the child of this process
  local i=${NODE:-0} pid venv variables=() namespaces=(--mount --uts --ipc --net --pid)
  pid=$(pid "$i"); venv=$(cat "$RIG/venv")
  [ ! -e /proc/self/ns/time ] || namespaces+=(--time)
  [ -z "$(ls "$RIG/gpu$i")" ] || variables+=(LD_LIBRARY_PATH="$GPULIB${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
  [ ! -e "$RIG/fakeclock.so" ] || variables+=(LD_PRELOAD="$STATE/fakeclock.so")
  [ ! -e "$RIG/slurm" ] || variables+=(SLURM_CONF="$STATE/slurm/slurm.conf")
  # shellcheck disable=SC2016  # for the host's shell
  exec taskset -c "$(cpus_of "$pid")" nsenter -t "$pid" "${namespaces[@]}" \
    env -u TMPDIR HOSTNAME="node$i" VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH" "${variables[@]}" \
    bash -c 'cd "$0" && exec "$@"' "$PWD" "$@"
}

pbs_run() { run "$STATE/pbs/bin/qsub" -I -V -l "${PBS_SELECT:-select=$(wc -l <"$RIG/nodes"):mpiprocs=2}" -- "$@"; }

# ---- faults ----------------------------------------------------------------------------------------------------

kill_host() { kill -9 "$(pid "$1")"; }                        # pid 1's death is that of its pid namespace
cut_off() { ip -n "$PREFIX-switch" link set "v$1" down; }
# shellcheck disable=SC2016  # for the host's shell
refuse() { in_host "$1" bash -c 'kill "$(cat /run/sshd.pid)"; while [ -e /run/sshd.pid ]; do sleep 0.05; done'; }

alias_name() {
  local address=10.77.0.250 hosts
  [ "$2" = nobody ] || address=$(awk -v name="$2" '$2 == name {print $1}' "$RIG/hosts")
  [ -n "$address" ] || die "alias: there is no host $2"
  hosts=$(awk -v name="$1" '$2 != name' "$RIG/hosts")
  printf '%s\n' "$hosts" "$address $1" >"$RIG/hosts"          # in place: this very file is bound on the hosts
}

fill() {  # nothing of it is to be seen in the directory: its file system has just the size that is used
  local size
  size=$(in_host "$1" df --output=used --block-size=1K "$2" | tail -1)
  in_host "$1" mount -o "remount,size=$((size < 4 ? 4 : size))k" "$2"
}

# shellcheck disable=SC2016  # for the host's shell
hide() { in_host "$1" bash -c 'mkdir -p /run/empty && mount --bind /run/empty "$0"' "$2"; }

# ----------------------------------------------------------------------------------------------------------------

# shellcheck source=tests/rig/slurm.sh
. "$HERE/slurm.sh"

case ${1:-} in
  build) build ;;
  up) up "${2:?how many?}" ;;
  run) shift; run "$@" ;;
  pbs-run) shift; pbs_run "$@" ;;
  pid) pid "${2:?of which host?}" ;;
  slurm) slurm ;;
  kill) kill_host "${2:?which host?}" ;;
  cut) cut_off "${2:?which host?}" ;;
  refuse) refuse "${2:?which host?}" ;;
  alias) alias_name "${2:?which name?}" "${3:?to which host?}" ;;
  fill | hide) "$1" "${2:?which host?}" "${3:?which directory?}" ;;
  down) down ;;
  __init) shift; init "$@" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
