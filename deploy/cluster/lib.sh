# shellcheck shell=bash
# What the commands of this folder share: where things are, and which provider is meant.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MILLRACE_CACHE:-$HOME/.cache/millrace}
export KIND_CLUSTER_NAME=${KIND_CLUSTER_NAME:-millrace}

# The container engine of the kind provider.
engine=${KIND_EXPERIMENTAL_PROVIDER:-docker}

# Prints kind, local or existing. CLUSTER chooses; without it, an existing context that MILLRACE_CONTEXT names comes
# first, then kind where a container engine answers, then the local provider.
provider() {
  case ${CLUSTER:-auto} in
    kind | local | existing) echo "$CLUSTER" ;;
    auto)
      if [ -n "${MILLRACE_CONTEXT:-}" ]; then
        echo existing
      elif "$engine" info >/dev/null 2>&1; then
        echo kind
      elif [ "$(uname -s)" = Linux ] && [ "$(id -u)" = 0 ]; then
        echo local
      else
        echo "no cluster can be made here: start Docker (or podman, with KIND_EXPERIMENTAL_PROVIDER=podman), run as root on Linux, or name a cluster with MILLRACE_CONTEXT" >&2
        return 3
      fi
      ;;
    *)
      echo "CLUSTER=$CLUSTER is not known: use kind, local, existing or auto" >&2
      return 2
      ;;
  esac
}

kubeconfig() {
  case $(provider) in
    local) echo "$cache/cluster/admin.kubeconfig" ;;
    kind) echo "$cache/kind-$KIND_CLUSTER_NAME.kubeconfig" ;;
    existing) echo "${KUBECONFIG:-$HOME/.kube/config}" ;;
  esac
}
