#!/bin/bash
# Builds the guest of the tests: busybox, the kernel modules that matter, the
# QEMU guest agent, what locks of NFSv3 take and the writer, in an initramfs. It needs no disk.
#
#   build.sh KERNEL_DEB AGENT_DEB WRITER OUT
#
# KERNEL_DEB is a Debian linux-image-*-cloud-amd64, AGENT_DEB qemu-guest-agent,
# WRITER the program of ./writer, static. OUT gets vmlinuz and initramfs.gz,
# the latter last.
set -euo pipefail

kernel_deb=$1 agent_deb=$2 writer=$3 out=$4
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The names are matched before they are unpacked: the whole package has 100 MB.
modules() { printf './lib/modules/*/kernel/%s\n' "$@"; }
mapfile -t wanted < <(modules 'drivers/virtio/*' 'drivers/char/virtio_console.ko' 'drivers/net/virtio_net.ko' \
	'drivers/net/net_failover.ko' 'net/core/*' 'net/sunrpc/*' 'net/dns_resolver/*' 'fs/fuse/*' 'fs/nfs/*' \
	'fs/nfs_common/*' 'fs/lockd/*' 'fs/fscache/*' 'fs/netfs/*' 'lib/*' 'crypto/*' 'arch/*')
dpkg-deb --fsys-tarfile "$kernel_deb" |
	tar -x -C "$work" --one-top-level=kernel --wildcards './boot/vmlinuz-*' './lib/modules/*/modules.*' "${wanted[@]}"
dpkg-deb -x "$agent_deb" "$work/agent"

root=$work/root
version=$(ls "$work/kernel/lib/modules")
mkdir -p "$root"/{bin,sbin,usr/bin,usr/sbin,proc,sys,dev,mnt,tmp,run,etc,root,var,"lib/modules/$version"}
ln -s ../run "$root/var/run"
install -m 755 /bin/busybox "$root/bin/busybox"
busybox --list-full | while read -r applet; do
	[ "$applet" = bin/busybox ] || ln -sf /bin/busybox "$root/$applet"
done
install -m 755 "$here/init" "$root/init"
install -m 755 "$writer" "$root/bin/cw-writer"

# modules.dep is not in the package: a trigger makes it on a real machine.
busybox depmod -b "$work/kernel" "$version"
for name in virtio_pci virtio_net virtio_console virtiofs nfsv3 nfsv4; do
	line=$(grep -E "/$name\.ko:" "$work/kernel/lib/modules/$version/modules.dep") ||
		{ echo "build.sh: $kernel_deb has no module $name" >&2; exit 1; }
	# shellcheck disable=SC2086 # the line is a list
	(cd "$work/kernel/lib/modules/$version" && cp --parents ${line/:/} "$root/lib/modules/$version")
done
cp "$work/kernel/lib/modules/$version/"modules.{order,builtin} "$root/lib/modules/$version"
busybox depmod -b "$root" "$version"

# A client of NFSv3 wants rpcbind and rpc.statd for its locks.
install -m 755 "$work/agent/usr/sbin/qemu-ga" "$root/usr/sbin/qemu-ga"
for program in rpcbind rpc.statd sm-notify; do
	install -m 755 "$(command -v "$program")" "$root/usr/sbin/$program"
done
cp /etc/netconfig /etc/services "$root/etc"
mkdir -p "$root"/var/lib/nfs/{sm,sm.bak}
for program in "$root"/usr/sbin/{qemu-ga,rpcbind,rpc.statd,sm-notify}; do
	libraries=$(ldd "$program")
	if grep 'not found' <<<"$libraries" >&2; then
		echo "build.sh: libraries of $program are missing; QEMU's packages and nfs-common bring them" >&2
		exit 1
	fi
	grep -oE '/[^ ]+' <<<"$libraries" | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -L "$library" "$root$library"
	done
done

mkdir -p "$out"
cp "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz.new"
(cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >"$out/initramfs.gz.new")
mv "$out/vmlinuz.new" "$out/vmlinuz"
mv "$out/initramfs.gz.new" "$out/initramfs.gz"
