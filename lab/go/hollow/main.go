// Hollow nodes: of each node what a kubelet, a kube-proxy and CoreDNS ask of the API server, and nothing else, with the
// same identities and a connection each. A kubelet here registers its Node, renews its lease, reports its status, and
// says of pods that they run.
//
// On standard input come commands, one JSON object a line, and each is answered by one on standard output:
//
//	{"first": 3, "last": 32}       start these nodes; answered when all watch what they watch
//	{"service": "x", "count": 32}  make this Service of the pods app=hollow; answered when all have its endpoints
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

type command struct {
	First, Last, Count int
	Service            string
}

type fleet struct {
	keys, host, server, domain string
	admin                      *kubernetes.Clientset
	watchers                   []*watcher
	errors                     *failures
}

func main() {
	f := &fleet{errors: &failures{}}
	flag.StringVar(&f.keys, "keys", "", "folder with NAME.crt and NAME.key of each identity, and apiserver.crt")
	flag.StringVar(&f.host, "address", "", "HOST:PORT of the API server")
	flag.StringVar(&f.server, "name", "", "the name in its certificate")
	flag.StringVar(&f.domain, "domain", "", "the cluster's domain")
	kubeconfig := flag.String("kubeconfig", "", "of an administrator, who makes the Services")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("https://"+f.host, *kubeconfig)
	must(err)
	config.ServerName = f.server
	f.admin = kubernetes.NewForConfigOrDie(config)
	// So that there is one who watches without any hollow node.
	f.watchers = append(f.watchers, watch(f.admin, "", f.errors))
	await(f.watchers)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c command
		must(json.Unmarshal(lines.Bytes(), &c))
		var answer any
		if c.Service != "" {
			answer = f.serve(c.Service, c.Count)
		} else {
			answer = f.start(c.First, c.Last)
		}
		must(json.NewEncoder(os.Stdout).Encode(answer))
	}
	must(lines.Err())
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// A connection of its own: client-go shares one among all with the same identity, and here each has another.
func (f *fleet) client(unit string, index int) *kubernetes.Clientset {
	name := filepath.Join(f.keys, fmt.Sprintf("%s_node%d", unit, index))
	return kubernetes.NewForConfigOrDie(&rest.Config{
		Host: "https://" + f.host,
		TLSClientConfig: rest.TLSClientConfig{
			ServerName: f.server,
			CAFile:     filepath.Join(f.keys, "apiserver.crt"),
			CertFile:   name + ".crt",
			KeyFile:    name + ".key",
		},
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf"},
		// Of a kubelet: kubeAPIQPS and kubeAPIBurst.
		QPS:   50,
		Burst: 100,
	})
}

func (f *fleet) start(first, last int) any {
	began := time.Now()
	for index := first; index <= last; index++ {
		name := fmt.Sprintf("node%d.%s", index, f.domain)
		node := f.client("node", index)
		f.watchers = append(f.watchers,
			watchAsKubelet(node, name, index, f.errors),
			watch(f.client("kube-proxy", index), name, f.errors),
			watch(f.client("coredns", index), "", f.errors))
		go run(node, name, index, f.errors)
	}
	await(f.watchers)
	return map[string]any{"seconds": time.Since(began).Seconds(), "errors": f.errors.taken()}
}

func (f *fleet) serve(name string, count int) any {
	for _, w := range f.watchers {
		w.expect(name, count)
	}
	service := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.ServiceSpec{
			Selector: map[string]string{"app": "hollow"},
			Ports:    []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}
	began := time.Now()
	_, err := f.admin.CoreV1().Services("default").Create(context.Background(), service, metav1.CreateOptions{})
	must(err)
	var taken []float64
	for _, w := range f.watchers {
		if w.arrived == nil {
			continue
		}
		select {
		case at := <-w.arrived:
			taken = append(taken, at.Sub(began).Seconds())
		case <-time.After(time.Until(began.Add(2 * time.Minute))):
		}
	}
	slices.Sort(taken)
	answer := map[string]any{"reached": len(taken), "watchers": f.following(), "errors": f.errors.taken()}
	if len(taken) > 0 {
		answer["first"], answer["median"], answer["last"] = taken[0], taken[len(taken)/2], taken[len(taken)-1]
	}
	return answer
}

func (f *fleet) following() (count int) {
	for _, w := range f.watchers {
		if w.arrived != nil {
			count++
		}
	}
	return count
}
