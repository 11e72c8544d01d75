# The system a lab machine has before the first deploy: nothing of a configuration, so that there is one to roll back to.
derivation {
  name = "nixos-system-lab-factory";
  system = builtins.currentSystem;
  builder = "/usr/bin/python3";
  args = [ "/opt/smallkube-lab/bin/build-system" ];
  description = builtins.toJSON { version = "25.11 (smallkube lab, as delivered)"; };
  passAsFile = [ "description" ];
}
