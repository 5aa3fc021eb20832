# Shared by build-kernel and build-debian: a GPT disk that boots with BIOS and UEFI, made without mounting anything.
#
#   sector 0        gptmbr.bin in the first 440 bytes, then the protective MBR
#   partition 1     EFI system partition, FAT32: syslinux for BIOS, GRUB for UEFI, vmlinuz, initrd.img
#   partition 2     ext4, made by the caller
#
# Both boot loaders read the kernel from partition 1 and give it the same command line. Identifiers are fixed, so that
# the same packages give the same disk as far as the tools allow it.
# shellcheck shell=bash

MIB=$((1024 * 1024))
ESP_START_BYTES=$MIB

die() {
  echo "$(basename "$0"): $1" >&2
  exit 1
}

# Stops at once, naming all that is missing, instead of in the middle of the work.
need_tools() {
  local tool missing=()
  for tool in "$@"; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  [ ${#missing[@]} -eq 0 ] || die "not installed: ${missing[*]} (tests/install)"
}

# partition_disk DISK DISK-BYTES ESP-BYTES DATA-NAME: a sparse disk with its partition table; sets DATA_START_BYTES and
# DATA_BYTES.
partition_disk() {
  local disk=$1 disk_bytes=$2 esp_bytes=$3 data_name=$4
  DATA_START_BYTES=$((ESP_START_BYTES + esp_bytes))
  # The last MiB holds the backup partition table.
  DATA_BYTES=$((disk_bytes - DATA_START_BYTES - MIB))
  rm -f "$disk"
  truncate -s "$disk_bytes" "$disk"
  sgdisk --disk-guid=7454494E-5459-4845-8000-000000000000 \
    --new="1:$((ESP_START_BYTES / 512)):$((DATA_START_BYTES / 512 - 1))" --typecode=1:ef00 --change-name=1:tintype-esp \
    --partition-guid=1:7454494E-5459-4845-8000-000000000001 --attributes=1:set:2 \
    --new="2:$((DATA_START_BYTES / 512)):$(((DATA_START_BYTES + DATA_BYTES) / 512 - 1))" --typecode=2:8300 \
    --change-name=2:"$data_name" --partition-guid=2:7454494E-5459-4845-8000-000000000002 "$disk" >/dev/null
}

# make_bootable DISK ESP-BYTES VMLINUZ INITRD KERNEL-OPTIONS: fills partition 1 and the boot code of sector 0.
make_bootable() {
  local disk=$1 esp_bytes=$2 vmlinuz=$3 initrd=$4 kernel_options=$5
  local parts esp
  # Beside the disk, in the caller's own work folder, which goes away in any case.
  parts=$(mktemp -d -p "$(dirname "$disk")")
  esp=$parts/esp.img
  cat >"$parts/syslinux.cfg" <<END
SERIAL 0 115200
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  INITRD /initrd.img
  APPEND $kernel_options
END
  make_grub "$parts" "$kernel_options"

  truncate -s "$esp_bytes" "$esp"
  # -h: how many sectors precede the partition on the disk, as the boot code of a FAT file system wants to know.
  mkfs.fat -F 32 -s 1 -n TINTYPE -i 54494e54 --invariant -h $((ESP_START_BYTES / 512)) "$esp" >/dev/null
  mmd -i "$esp" ::/EFI ::/EFI/BOOT
  mcopy -i "$esp" "$parts/BOOTX64.EFI" ::/EFI/BOOT/BOOTX64.EFI
  mcopy -i "$esp" "$parts/syslinux.cfg" ::/syslinux.cfg
  mcopy -i "$esp" "$vmlinuz" ::/vmlinuz
  mcopy -i "$esp" "$initrd" ::/initrd.img
  syslinux --install "$esp"

  dd if="$esp" of="$disk" bs=$MIB seek=$((ESP_START_BYTES / MIB)) conv=notrunc,sparse status=none
  dd if=/usr/lib/syslinux/mbr/gptmbr.bin of="$disk" bs=440 count=1 conv=notrunc status=none
  rm -rf "$parts"
}

# make_grub FOLDER KERNEL-OPTIONS: writes BOOTX64.EFI, one file with all that GRUB needs inside.
make_grub() {
  local folder=$1 kernel_options=$2 modules="part_gpt fat search search_fs_file linux normal boot configfile"
  cat >"$folder/grub.cfg" <<END
search --no-floppy --file /initrd.img --set=root
linux /vmlinuz $kernel_options
initrd /initrd.img
boot
END
  grub-mkstandalone --format=x86_64-efi --output="$folder/BOOTX64.EFI" --locales= --themes= --fonts= \
    --modules="$modules" --install-modules="$modules" "boot/grub/grub.cfg=$folder/grub.cfg"
}
