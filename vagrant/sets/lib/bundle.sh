# Sourced by sets: bundles of Debian's static busybox, edited without jq.

# bundle FOLDER WORD…: a bundle that runs these words of busybox.
bundle() {
  local folder=$1; shift
  mkdir -p $folder/rootfs/bin $folder/rootfs/proc $folder/rootfs/sys $folder/rootfs/dev $folder/rootfs/tmp
  cp /bin/busybox $folder/rootfs/bin/busybox
  for applet in sh echo sleep cat id true; do ln -sf busybox $folder/rootfs/bin/$applet; done
  (cd $folder && rm -f config.json && kernelet-oci spec)
  edit $folder "config['process'].update(args='$*'.split(), terminal=False, env=['PATH=/bin'])"
}
# edit FOLDER CODE: changes config.json by Python.
edit() {
  (cd $1 && python3 -c "import json; config = json.load(open('config.json')); exec('''$2'''); json.dump(config, open('config.json', 'w'))")
}
# field NAME: a field of a JSON object on standard input.
field() { python3 -c "import json, sys; print(json.load(sys.stdin)['$1'])"; }
