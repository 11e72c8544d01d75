# Minor of Kubernetes → the version that the lab builds (lab/go), and the folder of its programs on a machine.
{
  "1.34" = { version = "1.34.2"; folder = "kubernetes-1.34"; };
  "1.35" = { version = "1.35.4"; folder = "kubernetes-1.35"; };
  "1.36" = { version = "1.36.3"; folder = "kubernetes"; };
  "1.37" = { version = "1.37.2"; folder = "kubernetes-1.37"; };
}
