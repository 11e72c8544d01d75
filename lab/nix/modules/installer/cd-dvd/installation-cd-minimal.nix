# NixOS' installer, of which an evaluation of its configuration needs this much.
{
  services.openssh.enable = true;
}
