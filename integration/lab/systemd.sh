#!/bin/bash
# Boots systemd as process 1 of namespaces of its own, over a throw-away copy of
# this machine's root, in the caller's network. Run it in new mount, pid, uts and
# ipc namespaces; it becomes systemd.
#
#   systemd.sh GROUP DIR...     GROUP is its control group; each DIR is shared
set -euo pipefail

group=$1
shift
top=/mnt
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top"/{upper,work,root,cgroup}

# A control group of its own in each hierarchy, and then a namespace that shows
# nothing above it. Where version 2 has the controllers, version 1 has none.
enter() {
	mkdir -p "$top/cgroup/$group"
	echo $$ >"$top/cgroup/$group/cgroup.procs"
	umount "$top/cgroup"
}
version=1
mount -t cgroup2 cgroup2 "$top/cgroup"
if grep -qw memory "$top/cgroup/cgroup.controllers"; then
	version=2
	mkdir -p "$top/cgroup/$(dirname "$group")"
	echo "+memory +pids" >"$top/cgroup/cgroup.subtree_control"
	echo "+memory +pids" >"$top/cgroup/$(dirname "$group")/cgroup.subtree_control"
fi
enter
# Of version 1 all those in which systemd makes groups.
mapfile -t hierarchies </proc/self/cgroup
for line in "${hierarchies[@]}"; do
	IFS=: read -r _ kind _ <<<"$line"
	case $kind in
	'' | cpuset | freezer | net_cls* | perf_event | hugetlb | rdma | misc) continue ;;
	name=*) kind=none,$kind ;;
	esac
	mount -t cgroup -o "$kind" cgroup "$top/cgroup"
	enter
done
export version

# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --cgroup bash -euc '
root=$0/root
mount -t overlay -o "lowerdir=/,upperdir=$0/upper,workdir=$0/work" overlay "$root"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for node in null zero full random urandom tty fuse; do
	[ -e "/dev/$node" ] || continue
	touch "$root/dev/$node"
	mount --bind "/dev/$node" "$root/dev/$node"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm" "$root/dev/pts"
if [ "$version" = 2 ]; then
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
else
	mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
	mkdir "$root"/sys/fs/cgroup/{systemd,unified,memory,pids}
	mount -t cgroup -o none,name=systemd cgroup "$root/sys/fs/cgroup/systemd"
	mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup/unified"
	for kind in memory pids; do
		mount -t cgroup -o "$kind" cgroup "$root/sys/fs/cgroup/$kind"
	done
fi
for dir; do
	mkdir -p "$root$dir"
	mount --rbind "$dir" "$root$dir"
done

# Nothing of this machine is to be started, and its kernel not to be changed.
etc=$root/etc/systemd/system
rm -rf "$etc"/*.wants
for unit in systemd-{sysctl,binfmt,modules-load,remount-fs,udevd,random-seed,timesyncd,networkd,resolved}.service \
	systemd-udevd-{control,kernel}.socket proc-sys-fs-binfmt_misc.automount dev-{hugepages,mqueue}.mount \
	sys-{kernel-debug,kernel-tracing,fs-fuse-connections,kernel-config}.mount tmp.mount; do
	ln -sf /dev/null "$etc/$unit"
done
rm -f "$root/etc/fstab"

cd "$root"
pivot_root . .
umount -l .
cd /
mount --make-rshared /
export container=causeway
exec /lib/systemd/systemd --system --unit=basic.target --show-status=0
' "$top" "$@"
