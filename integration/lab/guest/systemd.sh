#!/bin/bash
# Builds a second guest of the tests: Debian with systemd and udev, and without a
# guest agent, in an initramfs for the kernel of the first.
#
#   systemd.sh GUEST
#
# GUEST is the directory that build.sh made. It gets systemd.cpio. What a test
# wants in the guest it appends as a further archive.
set -euo pipefail

guest=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Unpacked and not configured: nothing of it runs here.
mmdebstrap --quiet --variant=extract bookworm "$work/root.tar" \
	--include=systemd,udev,kmod,mount,util-linux,coreutils,dash,libc-bin,base-files,base-passwd
mkdir "$work/root"
tar -xf "$work/root.tar" -C "$work/root" --exclude='./usr/share/[!b]*' --exclude='./usr/share/bash-completion' \
	--exclude='*/perl*' --exclude='*/gconv' --exclude='./lib/udev/hwdb.d' --exclude='./var/lib/apt' --exclude='./dev/*' \
	--exclude='*/systemd-networkd' --exclude='*/libdb-*' --exclude='*/libmvec*'
cd "$work/root"
# The modules as the first guest has them.
zcat "$guest/initramfs.gz" | busybox cpio -id 'lib/modules/*' 2>/dev/null
# udev wants indexes that busybox does not make.
chroot . depmod -a "$(ls lib/modules)"
cp usr/share/base-passwd/passwd.master etc/passwd
cp usr/share/base-passwd/group.master etc/group
for group in kvm render sgx; do echo "$group:x:$((900 + ${#group})):" >>etc/group; done # of udev's rules
echo 'guest' >etc/hostname
: >etc/machine-id
: >etc/fstab
ln -sf lib/systemd/systemd init
# What a test has no use for, and would wait for.
for unit in systemd-timesyncd systemd-hwdb-update systemd-update-utmp systemd-firstboot systemd-journal-flush \
	systemd-machine-id-commit getty@tty1 serial-getty@ttyS0 getty-static systemd-pstore systemd-journal-catalog-update; do
	ln -sf /dev/null "etc/systemd/system/$unit.service"
done
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
# Not compressed: a processor that is emulated unpacks 1 MB/s.
find . | busybox cpio -o -H newc 2>/dev/null >"$guest/systemd.cpio.new"
mv "$guest/systemd.cpio.new" "$guest/systemd.cpio"
