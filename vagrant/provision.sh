#!/bin/sh
# Run as root in the machine of the Vagrantfile: installs the programs and the unit, and waits until the node is Ready.
#   provision.sh NODE-ADDRESS
set -eu
address=$1
from=/tmp/kernelet-install
for program in kernelet kernelet-oci kernelet-cni; do install -m 755 "$from/$program" "/usr/local/bin/$program"; done
install -m 644 "$from/kernelet.service" /etc/systemd/system/kernelet.service
# The machine's first link is the hypervisor's; the node speaks on the private one.
mkdir -p /etc/kernelet
printf 'node-ip: %s\n' "$address" > /etc/kernelet/config.yaml
rm -rf "$from"
systemctl daemon-reload
systemctl enable kernelet
systemctl restart kernelet
deadline=120
until kernelet status >/tmp/kernelet-status 2>&1; do
  deadline=$((deadline - 1))
  if [ $deadline = 0 ]; then cat /tmp/kernelet-status; journalctl --no-pager -u kernelet -n 30; exit 1; fi
  sleep 0.5
done
cat /tmp/kernelet-status
