# shellcheck shell=bash
# The bundle of the client certificates that the API server accepts.
#   kube-identities install FILE   at each start of the unit: what was deployed
#   kube-identities replace        at once, from standard input
#
# Takes the document that smallkube/secrets/identities.py describes. One wrong leaf, or a document that is not whole,
# and nothing is changed. A leaf that was removed by `replace` does not come back by `install`, such as by a rollback.
usage() {
  echo "usage: kube-identities install FILE | kube-identities replace <FILE" >&2
  exit 64
}
case "${1:-}-$#" in
  install-2) source=$(realpath -- "$2") ;;
  replace-1) source=- ;;
  *) usage ;;
esac
state=${STATE_DIRECTORY:-/var/lib/kube-identities}
bundle=$state/clients.crt
umask 022
exec 9>"$state/lock"
flock 9
new=$(mktemp -d "$state/new.XXXXXX")
trap 'rm -rf "$new"' EXIT

refuse() {
  echo "kube-identities: $1; the previous certificates stay" >&2
  exit 65
}

# What was sent since this document was deployed stays in force at a restart.
if [ "$source" != - ] && [ -s "$bundle" ] && [ "$(cat "$state/source" 2>/dev/null)" = "$source" ]; then
  exit 0
fi

fingerprint() { openssl x509 -in "$1" -outform DER | sha256sum | cut -d ' ' -f 1; }

# check NAME USER [GROUP]...: the leaf in $new/leaf
check() {
  local name=$1 subject
  shift
  [ "$(grep -c '^-----BEGIN' "$new/leaf")" = 1 ] || refuse "$name is not one certificate"
  openssl x509 -in "$new/leaf" -out "$new/pem" 2>/dev/null || refuse "$name is not a certificate in PEM"
  subject=$(openssl x509 -in "$new/pem" -noout -subject -nameopt sep_multiline,lname,esc_ctrl,esc_msb,utf8)
  names() { sed -n "s/^ *$1=//p" <<<"$subject" | sort; }
  [ "$(names commonName)" = "$1" ] || refuse "$name is not of the user $1"
  shift
  [ "$(names organizationName)" = "$(printf '%s\n' "$@" | sort)" ] || refuse "$name is not of the groups ${*:-(none)}"
  extension() { openssl x509 -in "$new/pem" -noout -ext "$1" 2>/dev/null | tail -n +2 | tr -d ' \n'; }
  [ "$(extension basicConstraints)" = CA:FALSE ] || refuse "$name is not marked CA:FALSE"
  [ "$(extension extendedKeyUsage)" = TLSWebClientAuthentication ] || refuse "$name is not for clientAuth alone"
  case $(extension keyUsage) in *CertificateSign*) refuse "$name may sign certificates" ;; esac
}

# take NAME USER [GROUP]...: adds the leaf in $new/leaf to the new bundle
take() {
  check "$@"
  local print
  print=$(fingerprint "$new/pem")
  if [ "$source" != - ] && grep -qsx "$print" "$state/revoked"; then
    echo "kube-identities: $1 was removed at run time and stays so" >&2
    return
  fi
  echo "$print" >>"$new/prints"
  { echo "# $*"; cat "$new/pem"; } >>"$new/bundle"
}

count=0 end='' entry=()
: >"$new/leaf"
touch "$new/bundle" "$new/prints"
while IFS= read -r line; do
  [ -z "$end" ] || refuse "lines after the end"
  case $line in
    '# identity '* | '# end '*)
      if [ "${#entry[@]}" -gt 0 ]; then take "${entry[@]}"; fi
      : >"$new/leaf"
      if [[ "$line" == '# end '* ]]; then
        end=${line#'# end '}
        continue
      fi
      [[ "$line" =~ ^'# identity'(' '[A-Za-z0-9/:._@-]+){2,}$ ]] || refuse "unexpected line: ${line:0:80}"
      read -ra entry <<<"${line#'# identity '}"
      count=$((count + 1))
      ;;
    *) printf '%s\n' "$line" >>"$new/leaf" ;;
  esac
done < <(if [ "$source" = - ]; then cat; else cat "$source"; fi)
[ -n "$end" ] || refuse "the document has no end"
[ "$end" = "$count" ] || refuse "$count certificates where $end belong"
[ -s "$new/bundle" ] || refuse "no certificate"

if [ "$source" = - ]; then
  # The fingerprints of those that go, without those that are accepted again.
  { cat "$state/revoked" "$state/prints" 2>/dev/null || true; } | sort -u | grep -vxFf "$new/prints" >"$new/revoked" || true
  mv -fT "$new/revoked" "$state/revoked"
fi
sync "$new/bundle"
mv -fT "$new/bundle" "$bundle"
mv -fT "$new/prints" "$state/prints"
if [ "$source" != - ]; then
  echo "$source" >"$new/source"
  mv -fT "$new/source" "$state/source"
fi
echo "kube-identities: $(wc -l <"$state/prints") certificates are accepted"
