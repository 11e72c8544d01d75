package main

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What one program follows; arrived: when it has the endpoints that it expects, nil where it follows none.
type watcher struct {
	synced  []cache.InformerSynced
	arrived chan time.Time

	lock     sync.Mutex
	service  string
	count    int
	slices   map[string]int
	finished bool
}

func await(watchers []*watcher) {
	for _, w := range watchers {
		cache.WaitForCacheSync(nil, w.synced...)
	}
}

func (w *watcher) expect(service string, count int) {
	w.lock.Lock()
	defer w.lock.Unlock()
	w.service, w.count, w.slices, w.finished = service, count, map[string]int{}, false
}

func (w *watcher) see(object any) {
	slice, ok := object.(*discovery.EndpointSlice)
	w.lock.Lock()
	defer w.lock.Unlock()
	if !ok || w.finished || w.service == "" || slice.Labels[discovery.LabelServiceName] != w.service {
		return
	}
	ready, sum := 0, 0
	for _, each := range slice.Endpoints {
		if each.Conditions.Ready != nil && *each.Conditions.Ready {
			ready++
		}
	}
	w.slices[slice.Name] = ready
	for _, each := range w.slices {
		sum += each
	}
	if sum >= w.count {
		w.finished = true
		w.arrived <- time.Now()
	}
}

func (w *watcher) follow(failed *failures, handler cache.ResourceEventHandler, all ...cache.SharedIndexInformer) {
	for _, informer := range all {
		must(informer.SetWatchErrorHandler(func(_ *cache.Reflector, err error) { failed.add(err) }))
		if handler != nil {
			_, err := informer.AddEventHandler(handler)
			must(err)
		}
		w.synced = append(w.synced, informer.HasSynced)
		go informer.Run(nil)
	}
}

// A kube-proxy's (cmd/kube-proxy/app/server.go) of this node, CoreDNS's (plugin/kubernetes/controller.go) without one.
func watch(client kubernetes.Interface, node string, failed *failures) *watcher {
	w := &watcher{arrived: make(chan time.Time, 1)}
	all := informers.NewSharedInformerFactory(client, 0)
	selected := all
	if node != "" {
		selector := "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
		selected = informers.NewSharedInformerFactoryWithOptions(client, 0,
			informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = selector }))
		w.follow(failed, nil, all.Networking().V1().ServiceCIDRs().Informer(), own(client, node).Core().V1().Nodes().Informer())
	} else {
		w.follow(failed, nil, all.Core().V1().Namespaces().Informer())
	}
	w.follow(failed, nil, selected.Core().V1().Services().Informer())
	see := cache.ResourceEventHandlerFuncs{AddFunc: w.see, UpdateFunc: func(_, object any) { w.see(object) }}
	w.follow(failed, see, selected.Discovery().V1().EndpointSlices().Informer())
	return w
}

// pkg/kubelet/kubelet.go, config/apiserver.go, volume_host.go, runtimeclass/runtimeclass_manager.go
func watchAsKubelet(client kubernetes.Interface, name string, index int, failed *failures) *watcher {
	w := &watcher{}
	all := informers.NewSharedInformerFactory(client, 0)
	w.follow(failed, nil, all.Core().V1().Services().Informer(), all.Storage().V1().CSIDrivers().Informer(),
		all.Node().V1().RuntimeClasses().Informer(), own(client, name).Core().V1().Nodes().Informer())
	bound := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.FieldSelector = "spec.nodeName=" + name }))
	pods := func(object any) {
		if pod, ok := object.(*v1.Pod); ok {
			go report(client, pod, index, failed)
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: pods, UpdateFunc: func(_, object any) { pods(object) }}
	w.follow(failed, handler, bound.Core().V1().Pods().Informer())
	return w
}

func own(client kubernetes.Interface, name string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.FieldSelector = "metadata.name=" + name }))
}
