#!/bin/bash
# Makes the emulated machine's display devices (numavm.sh run --gpus N) look like NVIDIA's, for hwloc and lspci: files
# with another vendor, device and class are mounted over those of sysfs. Where they are (numa_node) stays as it is.
# Run it in the guest, as root; it ends with the guest.
set -eu

mask() { # FILE IN SYSFS, TEXT
  local copy=/run/disguise/${1//\//_}
  printf '%s\n' "$2" >"$copy"
  mount --bind "$copy" "$1"
}

mkdir -p /run/disguise
mount -t tmpfs tmpfs /run/disguise
for device in /sys/bus/pci/devices/*; do
  [ "$(cat "$device/class")" = 0x038000 ] || continue
  device=$(readlink -f "$device")
  config=/run/disguise/${device//\//_}_config
  cp "$device/config" "$config"
  printf '\xde\x10\x35\x23' | dd of="$config" bs=1 conv=notrunc status=none        # 10de:2335, an H200
  printf '\x02\x03' | dd of="$config" bs=1 seek=10 conv=notrunc status=none        # class 0302, a 3D controller
  mount --bind "$config" "$device/config"
  mask "$device/vendor" 0x10de
  mask "$device/device" 0x2335
  mask "$device/class" 0x030200
done
