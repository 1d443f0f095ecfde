#!/bin/bash
# Brings what building and testing need to a Debian 12 machine: packages, Go
# where it is missing or too old, the modules, the guest of the tests in
# .cache/guest, and in .cache/debian13 a root of Debian 13 with its Ganesha,
# libvirt, QEMU and virtiofsd. It installs and downloads only what is missing,
# and starts and enables nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
	ca-certificates git make gcc libc6-dev pkg-config libvirt-dev
	qemu-system-x86 libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients
	nfs-ganesha nfs-ganesha-vfs rpcbind nfs-common netbase dbus dbus-daemon nftables iproute2 openvswitch-switch btrfs-progs busybox-static
	procps virtinst iputils-ping systemd protobuf-compiler libprotobuf-dev shellcheck mmdebstrap
	protobuf-compiler-grpc python3-eventlet python3-grpcio python3-protobuf python3-setuptools python3-wheel mypy pycodestyle
)
debian13=( # packages of the root of Debian 13
	nfs-ganesha nfs-ganesha-vfs dbus-daemon virtiofsd qemu-system-x86
	libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients nftables iproute2 btrfs-progs
)
go_version=1.26.8 # brought where the machine has none that fits go.mod
cache=$PWD/.cache
export PATH=$cache/go/bin:$PATH:/usr/local/go/bin:/usr/sbin:/sbin

say() { echo "deps: $*" >&2; }
die() {
	say "$@"
	exit 1
}

# again runs a command up to four times: networks and mirrors fail for moments.
again() {
	local attempt
	for attempt in 1 2 3; do
		"$@" && return
		say "attempt $attempt failed: $*"
		sleep $((attempt * 3))
	done
	"$@"
}

need_root() { [ "$(id -u)" = 0 ] || die "run it as root: $*"; }

fresh_index= # apt's lists are updated once, and only if needed
apt_update() {
	[ -z "$fresh_index" ] || return 0
	again apt-get update -qq
	fresh_index=yes
}

# Packages start their daemons when they are installed, unless a policy says no.
installed() {
	local policy=/usr/sbin/policy-rc.d made='' status=0
	need_root "install $*"
	apt_update
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made=yes
	fi
	DEBIAN_FRONTEND=noninteractive again apt-get install -y -qq --no-install-recommends "$@" >"$cache/apt.log" 2>&1 || status=$?
	[ -z "$made" ] || rm -f "$policy"
	if [ "$status" != 0 ]; then
		tail -n 30 "$cache/apt.log" >&2
		die "apt-get install $* failed"
	fi
	# Their units are for a machine that serves with them.
	if [ -d /run/systemd/system ]; then
		systemctl --quiet disable nfs-ganesha nfs-ganesha-lock openvswitch-switch 2>/dev/null || true
	fi
}

missing_packages() {
	local have p
	have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null || true)
	for p in "${packages[@]}"; do
		[[ $'\n'$have$'\n' == *$'\n'"$p installed"$'\n'* ]] || echo "$p"
	done
}

# go_fits is true where the go command can build this module, be it with a
# toolchain that it fetches for itself.
go_fits() {
	local wanted have
	wanted=$(awk '$1 == "go" { print $2; exit }' go.mod)
	have=$(go env GOVERSION 2>/dev/null) || return 1
	have=${have#go}
	[ "$(printf '%s\n%s\n' "$wanted" "${have%%[- ]*}" | sort -V | head -n 1)" = "$wanted" ]
}

# bring_go fetches the toolchain as the module that it is. Debian 12's own go,
# 1.19, is too old to switch to it, but can download it and check its sum.
bring_go() {
	local work debian arch
	arch=$(dpkg --print-architecture)
	say "no Go that fits go.mod; bringing $go_version"
	work=$(mktemp -d)
	debian=$(command -v go || true)
	if [ -z "$debian" ]; then
		installed golang-go
		debian=/usr/bin/go
	fi
	if ! (cd "$work" && GOPATH=$work/path GOFLAGS=-modcacherw GOTOOLCHAIN=local again "$debian" mod download "golang.org/toolchain@v0.0.1-go$go_version.linux-$arch"); then
		rm -rf "$work"
		die "cannot bring Go: install Go $go_version or newer from https://go.dev/dl/ into /usr/local/go, and run this again"
	fi
	rm -rf "$cache/go"
	mv "$work/path/pkg/mod/golang.org/toolchain@v0.0.1-go$go_version.linux-$arch" "$cache/go"
	rm -rf "$work"
	# A module's archive holds neither modes nor inner go.mod files.
	find "$cache/go" -name _go.mod -execdir mv _go.mod go.mod \;
	chmod -R +x "$cache/go/bin" "$cache/go/pkg/tool"
}

# stamp names what a result was made of.
stamp() { cat "$@" | sha256sum | cut -d' ' -f1; }

build_guest() {
	local kernel work
	apt_update
	kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" { print $2; exit }')
	[ -n "$kernel" ] || die "apt knows no linux-image-cloud-amd64: is main of Debian 12 in its sources?"
	work=$(mktemp -d)
	if ! { (cd "$work" && again apt-get -qq -o APT::Sandbox::User=root download "$kernel" qemu-guest-agent) &&
		CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o "$work/cw-writer" ./integration/lab/guest/writer &&
		integration/lab/guest/build.sh "$work/$kernel"_*.deb "$work"/qemu-guest-agent_*.deb "$work/cw-writer" "$cache/guest"; }; then
		rm -rf "$work"
		die "cannot build the guest of the tests"
	fi
	rm -rf "$work"
}

# bring_debian13 makes the root beside the old one, which tests may be using.
bring_debian13() {
	need_root "make a root of Debian 13"
	rm -rf "$cache/debian13.new"
	mmdebstrap --quiet --variant=minbase --include="$(IFS=,; echo "${debian13[*]}")" trixie "$cache/debian13.new" >"$cache/debian13.log" 2>&1
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then
	say "installing ${missing[*]}"
	installed "${missing[@]}"
fi
go_fits || bring_go
go_fits || die "$(go version) does not fit go.mod: install Go $go_version or newer from https://go.dev/dl/"

modules=$(stamp go.mod go.sum)
if [ "$(cat "$cache/modules" 2>/dev/null)" != "$modules" ] || [ ! -d "$(go env GOMODCACHE)/cache" ]; then
	say "downloading modules"
	again go mod download
	echo "$modules" >"$cache/modules"
fi

guest=$(stamp integration/lab/guest/{build.sh,init,writer/main.go})
if [ "$(cat "$cache/guest/stamp" 2>/dev/null)" != "$guest" ]; then
	say "building the guest of the tests"
	build_guest
	echo "$guest" >"$cache/guest/stamp"
fi

systemd_guest=$(stamp integration/lab/guest/systemd.sh "$cache/guest/stamp")
if [ "$(cat "$cache/guest/systemd.stamp" 2>/dev/null)" != "$systemd_guest" ]; then
	say "building the guest with systemd"
	need_root "build the guest with systemd"
	again integration/lab/guest/systemd.sh "$cache/guest" || die "cannot build the guest with systemd"
	echo "$systemd_guest" >"$cache/guest/systemd.stamp"
fi

if [ "$(cat "$cache/debian13.stamp" 2>/dev/null)" != "${debian13[*]}" ] || [ ! -d "$cache/debian13" ]; then
	say "making a root of Debian 13"
	if ! again bring_debian13; then
		tail -n 30 "$cache/debian13.log" >&2
		die "cannot make a root of Debian 13"
	fi
	rm -rf "$cache/debian13"
	mv "$cache/debian13.new" "$cache/debian13"
	echo "${debian13[*]}" >"$cache/debian13.stamp"
fi
