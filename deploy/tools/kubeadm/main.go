// What makes a cluster of nodes: kubeadm, and the etcd that its Kubernetes is tested with, chosen by the name that the
// binary is called by.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app"
)

func main() {
	if filepath.Base(os.Args[0]) == "etcd" {
		etcdmain.Main(os.Args)
		return
	}
	if err := kubeadm.Run(); err != nil {
		os.Exit(1)
	}
}
