# shellcheck shell=bash
# What the commands of the local provider share.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${MILLRACE_CACHE:-$HOME/.cache/millrace}
state=$cache/cluster
netns=millrace
link=millrace0
host_ip=10.201.0.1
node_ip=10.201.0.2
pod_cidr=10.245.0.0/16
service_cidr=10.97.0.0/16
dns_ip=10.97.0.10
# In the order in which they are stopped.
components="kube-proxy kubelet kube-scheduler kube-controller-manager kube-apiserver etcd containerd"

# A pid file may outlive its process, and its number may be somebody else's by now: the command line decides.
pid_of() {
  local pid
  pid=$(cat "$state/$1.pid" 2>/dev/null) || return 1
  grep -qa "$state" "/proc/$pid/cmdline" 2>/dev/null || return 1
  echo "$pid"
}

is_up() {
  local name
  for name in $components; do
    pid_of "$name" >/dev/null || return 1
  done
  KUBECONFIG=$state/admin.kubeconfig timeout 5 "$bin/kubectl" get --raw /readyz >/dev/null 2>&1
}
