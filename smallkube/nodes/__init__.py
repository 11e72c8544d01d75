"""Work on the fleet beside deploys: commands everywhere, draining, rolling reboots."""
