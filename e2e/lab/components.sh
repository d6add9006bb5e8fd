#!/usr/bin/env bash
# Builds the Kubernetes components that the lab runs, once per version, from
# the Go module proxy (no registry, no prebuilt binary). The binaries land
# outside the work tree, in a folder keyed by version, and are reused.
#
#   e2e/lab/components.sh            build what is missing, print the folder
#   e2e/lab/components.sh --print    only print the folder
set -euo pipefail

KUBERNETES_VERSION=v1.34.4
HELM_VERSION=v3.21.4
COREDNS_VERSION=v1.12.4

cache="${FAULTLINE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/faultline}"
out="$cache/components/k8s-$KUBERNETES_VERSION-helm-$HELM_VERSION-coredns-$COREDNS_VERSION"
[ "${1:-}" = "--print" ] && { echo "$out"; exit 0; }

mkdir -p "$out"
exec 9>"$out/.lock"
flock 9

export GOTOOLCHAIN="${GOTOOLCHAIN:-local}" GOFLAGS="${GOFLAGS:-} -mod=mod"
work="$(mktemp -d "${TMPDIR:-/tmp}/faultline-components.XXXXXX")"
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

say() { echo "components: $*" >&2; }

# What downloads may fail once; what was downloaded is kept.
persistently() {
  local try
  for try in 1 2 3; do
    "$@" && return
    say "attempt $try of $1 $2 failed"
    sleep $((try * 5))
  done
  return 1
}

# A module of our own with nothing but a go.mod: the staging modules are
# replaced by their published twins (k8s.io/X v0.N.M of the same release).
kubernetes() {
  local names=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl) name missing=0
  for name in "${names[@]}"; do [ -x "$out/$name" ] || missing=1; done
  [ "$missing" = 0 ] && return
  say "kubernetes $KUBERNETES_VERSION: building (about 6 minutes on two cores, once)"
  local dir="$work/kubernetes" staging="v0.${KUBERNETES_VERSION#v1.}" upstream
  mkdir -p "$dir"
  cd "$dir"
  upstream="$(persistently go mod download -json "k8s.io/kubernetes@$KUBERNETES_VERSION" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')"
  {
    echo "module faultline.dev/lab/kubernetes"
    echo "go $(sed -n 's/^go //p' "$upstream")"
    echo "godebug default=go$(sed -n 's/^godebug default=go//p' "$upstream")"
    echo "require k8s.io/kubernetes $KUBERNETES_VERSION"
    sed -n "s|^[[:space:]]*\(k8s.io/[a-z0-9.-]*\) => ./staging/.*|replace \1 => \1 $staging|p" "$upstream"
    for name in "${names[@]}"; do echo "tool k8s.io/kubernetes/cmd/$name"; done
  } > go.mod
  persistently go mod tidy 2> tidy.log || { cat tidy.log >&2; return 1; }
  local v="k8s.io/component-base/version" targets=()
  for name in "${names[@]}"; do targets+=("k8s.io/kubernetes/cmd/$name"); done
  mkdir -p bin
  persistently go build -trimpath -o bin/ -ldflags "-s -w -X $v.gitVersion=$KUBERNETES_VERSION -X $v.gitMajor=1 -X $v.gitMinor=$(echo "$KUBERNETES_VERSION" | cut -d. -f2)" "${targets[@]}"
  for name in "${names[@]}"; do install -m 0755 "bin/$name" "$out/$name"; done
}

# A command of one published module, built as its own go.mod says.
tool() { # name, package, version
  [ -x "$out/$1" ] && return
  say "$1 $3: building"
  GOFLAGS="${GOFLAGS/-mod=mod/}" GOBIN="$work/bin" persistently go install -trimpath -ldflags "-s -w" "$2@$3"
  install -m 0755 "$work/bin/$(basename "$2")" "$out/$1"
}

kubernetes
tool helm helm.sh/helm/v3/cmd/helm "$HELM_VERSION"
tool coredns github.com/coredns/coredns "$COREDNS_VERSION"
echo "$out"
