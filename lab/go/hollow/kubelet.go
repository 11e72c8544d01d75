package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	coordination "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	errors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The kubelet's defaults: nodeLeaseDurationSeconds (renewed after a quarter), nodeStatusReportFrequency.
const (
	leaseSeconds = 40
	renewal      = leaseSeconds * time.Second / 4
	reporting    = 5 * time.Minute
)

// Requests that failed since they were last asked for, and the last of them, which goes to standard error, too.
type failures struct {
	lock  sync.Mutex
	count int
}

func (f *failures) add(err error) {
	f.lock.Lock()
	defer f.lock.Unlock()
	f.count++
	fmt.Fprintln(os.Stderr, err)
}

func (f *failures) taken() int {
	f.lock.Lock()
	defer f.lock.Unlock()
	count := f.count
	f.count = 0
	return count
}

func run(client kubernetes.Interface, name string, index int, failed *failures) {
	background := context.Background()
	for {
		_, err := client.CoreV1().Nodes().Create(background, node(name, index), metav1.CreateOptions{})
		if err == nil || errors.IsAlreadyExists(err) {
			break
		}
		failed.add(err)
		time.Sleep(time.Second)
	}
	var lease *coordination.Lease
	for reported := (time.Time{}); ; time.Sleep(renewal + time.Duration(rand.Int64N(int64(renewal/25)))) {
		if time.Since(reported) >= reporting {
			patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": status(index).Conditions}})
			must(err)
			_, err = client.CoreV1().Nodes().Patch(background, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
			if err != nil {
				failed.add(err)
			} else {
				reported = time.Now()
			}
		}
		renewed, err := renew(client, name, lease)
		if err != nil {
			failed.add(err)
			renewed = nil
		}
		lease = renewed
	}
}

func renew(client kubernetes.Interface, name string, lease *coordination.Lease) (*coordination.Lease, error) {
	leases, now := client.CoordinationV1().Leases(v1.NamespaceNodeLease), metav1.NowMicro()
	if lease != nil {
		lease.Spec.RenewTime = &now
		return leases.Update(context.Background(), lease, metav1.UpdateOptions{})
	}
	found, err := leases.Get(context.Background(), name, metav1.GetOptions{})
	if !errors.IsNotFound(err) {
		return found, err
	}
	seconds := int32(leaseSeconds)
	made := &coordination.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1.NamespaceNodeLease},
		Spec:       coordination.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	return leases.Create(context.Background(), made, metav1.CreateOptions{})
}

func node(name string, index int) *v1.Node {
	labels := map[string]string{
		"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", "role": "worker",
	}
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Status: status(index)}
}

// As large as that of a node of the lab, but for its images.
func status(index int) v1.NodeStatus {
	now := metav1.Now()
	room := v1.ResourceList{
		v1.ResourceCPU:              resource.MustParse("2"),
		v1.ResourceMemory:           resource.MustParse("4Gi"),
		v1.ResourceEphemeralStorage: resource.MustParse("40Gi"),
		v1.ResourcePods:             resource.MustParse("110"),
	}
	state := func(kind v1.NodeConditionType, value v1.ConditionStatus, reason string) v1.NodeCondition {
		return v1.NodeCondition{Type: kind, Status: value, Reason: reason, Message: "kubelet has " + reason,
			LastHeartbeatTime: now, LastTransitionTime: now}
	}
	return v1.NodeStatus{
		Capacity: room, Allocatable: room,
		Addresses: []v1.NodeAddress{
			{Type: v1.NodeInternalIP, Address: fmt.Sprintf("10.88.%d.1", index)},
			{Type: v1.NodeInternalIP, Address: fmt.Sprintf("fd88:%d::1", index)},
			{Type: v1.NodeHostName, Address: fmt.Sprintf("node%d", index)},
		},
		Conditions: []v1.NodeCondition{
			state(v1.NodeMemoryPressure, v1.ConditionFalse, "KubeletHasSufficientMemory"),
			state(v1.NodeDiskPressure, v1.ConditionFalse, "KubeletHasNoDiskPressure"),
			state(v1.NodePIDPressure, v1.ConditionFalse, "KubeletHasSufficientPID"),
			state(v1.NodeReady, v1.ConditionTrue, "KubeletReady"),
		},
		NodeInfo: v1.NodeSystemInfo{
			KubeletVersion: "v1.36.3", OperatingSystem: "linux", Architecture: "amd64", OSImage: "hollow",
			ContainerRuntimeVersion: "cri-o://1.34.0", KernelVersion: "hollow",
		},
	}
}

// A pod that is bound to the node runs at once; one that is to end has ended.
func report(client kubernetes.Interface, pod *v1.Pod, index int, failed *failures) {
	pods := client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		if err := pods.Delete(context.Background(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil && !errors.IsNotFound(err) {
			failed.add(err)
		}
		return
	}
	// That of a node that was away for a while is no longer Ready.
	for _, each := range pod.Status.Conditions {
		if each.Type == v1.PodReady && each.Status == v1.ConditionTrue {
			return
		}
	}
	now := metav1.Now()
	ready := func(kind v1.PodConditionType) v1.PodCondition {
		return v1.PodCondition{Type: kind, Status: v1.ConditionTrue, LastTransitionTime: now}
	}
	address := fmt.Sprintf("10.88.%d.10", index)
	status := v1.PodStatus{
		Phase: v1.PodRunning, StartTime: &now, PodIP: address, PodIPs: []v1.PodIP{{IP: address}},
		Conditions: []v1.PodCondition{ready(v1.PodInitialized), ready(v1.PodReady), ready(v1.ContainersReady)},
	}
	patch, err := json.Marshal(map[string]any{"status": status})
	must(err)
	for {
		_, err = pods.Patch(context.Background(), pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err == nil || errors.IsNotFound(err) {
			return
		}
		failed.add(err)
		time.Sleep(time.Second)
	}
}
