# shellcheck shell=bash disable=SC2153  # STATE is fakehosts.sh's
# A real Slurm inside the fake hosts: a part of fakehosts.sh, from which its variables and functions are.
# Debian's packages, unpacked beside the machine's files, never installed: they are in /usr on the hosts alone.

slurm() {
  local tree i n cpus mib state=$RIG/slurm conf=$STATE/slurm/slurm.conf
  n=$(wc -l <"$RIG/nodes")
  mib=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
  tree=$(unpack slurmctld slurmd slurm-client)
  mkdir -p "$state/state"
  slurm_conf >"$state/slurm.conf"
  echo CgroupPlugin=cgroup/v1 >"$state/cgroup.conf"       # not used; but to find out which, slurmd wants one mounted
  for ((i = 0; i < n; i++)); do
    cpus=$(in_host "$i" nproc)
    echo "NodeName=node$i CPUs=$cpus RealMemory=$mib" >>"$state/slurm.conf"
  done
  echo "PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP" >>"$state/slurm.conf"
  for ((i = 0; i < n; i++)); do
    in_host "$i" mount -t overlay -o "lowerdir=$tree/usr:/usr" overlay /usr
    [ "$i" != 0 ] || in_host 0 /usr/sbin/slurmctld-wlm -f "$conf"
    in_host "$i" /usr/sbin/slurmd-wlm -f "$conf" -d /usr/sbin/slurmstepd-wlm
  done
  for _ in $(seq 100); do
    [ "$(in_host 0 env SLURM_CONF="$conf" sinfo -h -N -t idle 2>/dev/null | wc -l)" != "$n" ] || return 0
    sleep 0.2
  done
  cat "$state"/*.log >&2
  die "Slurm's nodes are not idle after 20 s; its logs are above"
}

# No accounts, no cgroups, no munge: nobody but root is on the hosts. Source: slurm.conf(5), 22.05.
slurm_conf() {
  cat <<CONF
ClusterName=fakehosts
SlurmctldHost=node0
SlurmUser=root
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
KillWait=5
MailProg=/bin/true
StateSaveLocation=$STATE/slurm/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=$STATE/slurm/slurmctld.log
SlurmdLogFile=$STATE/slurm/%n.log
CONF
}
