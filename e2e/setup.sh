#!/usr/bin/env bash
# Makes a machine ready for a Makefile target: checks the toolchains and, as
# root on Debian, installs the packages that are missing; anywhere else it
# prints the command that would, and fails.
#
#   e2e/setup.sh demo         what `make demo` needs
#   e2e/setup.sh test         what `make test` needs; as root the lab's as well
#   e2e/setup.sh lab          what `make lab-up` needs
#   e2e/setup.sh why-no-lab   prints why the lab cannot run here, or nothing
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="$PATH:/usr/sbin:/sbin:/usr/local/go/bin"

# Debian package, and the program or file that shows it is there.
demo=(
  gcc:cc
  protobuf-compiler:protoc
  libprotobuf-dev:/usr/include/google/protobuf/descriptor.proto
  iproute2:ip
  nftables:nft
  iptables:iptables
)
checks=(
  etcd-server:etcd
  etcd-client:etcdctl
  openssl:openssl
  procps:ps
)
lab=(
  containerd:containerd
  runc:runc
  containernetworking-plugins:/usr/lib/cni/bridge
  conntrack:conntrack
  ipset:ipset
  kmod:modprobe
  socat:socat
  ethtool:ethtool
  busybox-static:/usr/share/doc/busybox-static
  qemu-system-x86:qemu-system-x86_64
  buildah:buildah
  mmdebstrap:mmdebstrap
  binutils:strip
  mount:mount
  util-linux:nsenter
)

# The fuzzer of the REST API; control-plane/tests/rest_fuzz.rs names the same version.
schemathesis=4.32.5

say() { echo "setup: $*" >&2; }
is_root() { [ "$(id -u)" = 0 ]; }
is_debian() { command -v apt-get > /dev/null && command -v dpkg > /dev/null; }
have() { case "$1" in /*) [ -e "$1" ] ;; *) command -v "$1" > /dev/null ;; esac }

missing() { # package:probe ...
  local pair
  for pair in "$@"; do have "${pair#*:}" || echo "${pair%%:*}"; done
}

toolchains() {
  local problems=0
  have cargo || { say "cargo is missing: install Rust from https://rustup.rs"; problems=1; }
  if [ "$1" = lab ] && ! have go; then
    say "go is missing: it builds the lab's Kubernetes once (https://go.dev/dl)"
    problems=1
  fi
  return "$problems"
}

# Debian starts a service when its package is installed. Ours need the programs,
# not the services: an etcd or a containerd that nobody asked for stays off.
without_services() {
  local policy=/usr/sbin/policy-rc.d
  if [ -e "$policy" ]; then "$@"; return; fi
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  local status=0
  "$@" || status=$?
  rm -f "$policy"
  return "$status"
}

install() {
  local try
  export DEBIAN_FRONTEND=noninteractive
  for try in 1 2 3; do
    if apt-get -q -o DPkg::Lock::Timeout=120 -o Acquire::Retries=3 update \
      && without_services apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 \
        install --no-install-recommends "$@"; then
      return 0
    fi
    say "attempt $try failed"
    sleep $((try * 5))
  done
  return 1
}

provide() { # package:probe ...
  local packages
  mapfile -t packages < <(missing "$@")
  [ "${#packages[@]}" = 0 ] && return
  if is_root && is_debian; then
    say "installing ${packages[*]}"
    install "${packages[@]}" >&2
    mapfile -t packages < <(missing "$@")
    [ "${#packages[@]}" = 0 ] && return
    say "still missing: ${packages[*]}"
    return 1
  fi
  say "missing: ${packages[*]}. On Debian:"
  say "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}"
  return 1
}

# Into a folder of its own under the user's cache. Without Python or PyPI the
# one test that uses it is skipped, and says so.
fuzzer() {
  local home="${XDG_CACHE_HOME:-$HOME/.cache}/faultline/schemathesis-$schemathesis"
  [ -x "$home/bin/schemathesis" ] && return
  if ! command -v python3 > /dev/null; then
    say "no python3: the REST API will not be fuzzed"
    return
  fi
  mkdir -p "${home%/*}"
  if python3 -m venv --clear "$home" > /dev/null 2>&1 \
    && "$home/bin/pip" install -q --disable-pip-version-check "schemathesis==$schemathesis" >&2; then
    return
  fi
  rm -rf "$home"
  say "schemathesis $schemathesis could not be installed from PyPI: the REST API will not be fuzzed"
}

# promtool is in Debian's package of the whole server. Only the program is taken
# out of it, into a folder of its own under the user's cache: 19 MB, no root.
# Without it the one test that uses it is skipped, and says so.
metrics_checker() {
  local home="${XDG_CACHE_HOME:-$HOME/.cache}/faultline/promtool"
  if have promtool || [ -x "$home/promtool" ]; then return; fi
  if ! is_debian; then
    say "no promtool (https://prometheus.io/download): the format of the metrics will not be checked by it"
    return
  fi
  local work
  work="$(mktemp -d)"
  if (cd "$work" && chmod 755 . \
    && { apt-get -qq download prometheus || { is_root && apt-get -qq update && apt-get -qq download prometheus; }; } \
    && dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool \
    && mkdir -p "$home" && mv usr/bin/promtool "$home/promtool.new" \
    && mv "$home/promtool.new" "$home/promtool") >&2 2> "$work/said"; then
    say "promtool is in $home"
  else
    cat "$work/said" >&2
    say "promtool could not be fetched: the format of the metrics will not be checked by it"
  fi
  rm -rf "$work"
}

why_no_lab() {
  if [ "$(uname -s)" != Linux ]; then echo "it needs Linux"
  elif ! is_root; then echo "it needs root"
  elif [ "${FAULTLINE_LAB:-1}" = 0 ]; then echo "FAULTLINE_LAB=0"
  elif ! have go; then echo "it needs go, to build Kubernetes once"
  elif ! unshare --net --mount true 2> /dev/null; then echo "this machine refuses new network namespaces"
  fi
}

case "${1:-}" in
  demo) toolchains demo && provide "${demo[@]}" ;;
  test)
    if is_root && [ "$(uname -s)" = Linux ]; then
      toolchains test && provide "${demo[@]}" "${checks[@]}" "${lab[@]}"
    else
      toolchains test && provide "${demo[@]}" "${checks[@]}"
    fi
    fuzzer
    metrics_checker
    ;;
  lab) toolchains lab && provide "${demo[@]}" "${checks[@]}" "${lab[@]}" ;;
  why-no-lab) why_no_lab ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
