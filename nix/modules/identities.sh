# shellcheck shell=bash
# The bundle of the client certificates that the API server accepts.
#   kube-identities install FILE   at each start of the unit: what was deployed
#   kube-identities replace        at once, from standard input
#
# Takes the document that smallkube/secrets/identities.py describes. One wrong leaf, or a document that is not whole,
# and nothing is changed. A leaf that was removed by `replace` does not come back by `install`, such as by a rollback.
# A leaf that is in force is not verified again: a certificate takes a tenth of a second, and 254 nodes have 762.
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

# Names and leaf as in the bundle → fingerprint, which stands in the line after the leaf.
declare -A known revoked
if [ -s "$bundle" ]; then
  while IFS= read -r line; do
    case $line in
      '# sha256 '*) known[$text]=${line#'# sha256 '} ;;
      '# '*) text=${line#'# '}$'\n' ;;
      *) text+=$line$'\n' ;;
    esac
  done <"$bundle"
fi
if [ -s "$state/revoked" ]; then
  while IFS= read -r line; do revoked[$line]=yes; done <"$state/revoked"
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

# take NAME USER [GROUP]...: adds $leaf to the new bundle
take() {
  local print=${known["$*"$'\n'"$leaf"]-}
  if [ -z "$print" ]; then
    printf '%s' "$leaf" >"$new/leaf"
    check "$@"
    print=$(fingerprint "$new/pem")
    leaf=$(<"$new/pem")$'\n'
    known["$*"$'\n'"$leaf"]=$print
  fi
  if [ "$source" != - ] && [ "${revoked[$print]-}" ]; then
    echo "kube-identities: $1 was removed at run time and stays so" >&2
    return
  fi
  echo "$print" >>"$new/prints"
  printf '# %s\n%s# sha256 %s\n' "$*" "$leaf" "$print" >>"$new/bundle"
}

# The names that the API server sends with each handshake: of the new bundle, in bytes of DER (no value is longer than
# 127). It is one message of TLS, and no client gets an answer when that is longer than 64 KiB (crypto/tls, maxHandshake).
names_size() {
  openssl crl2pkcs7 -nocrl -certfile "$new/bundle" | openssl pkcs7 -print_certs -noout | awk '
    sub(/^subject= */, "") {
      size = 0
      for (i = split($0, names, ", "); i; i--) { sub(/^[^=]*= */, "", names[i]); size += 11 + length(names[i]) }
      sum += size + (size < 128 ? 4 : 5)
    }
    END { print sum }'
}

count=0 end='' entry=() leaf=''
touch "$new/bundle" "$new/prints"
while IFS= read -r line; do
  [ -z "$end" ] || refuse "lines after the end"
  case $line in
    '# identity '* | '# end '*)
      if [ "${#entry[@]}" -gt 0 ]; then take "${entry[@]}"; fi
      leaf=''
      if [[ "$line" == '# end '* ]]; then
        end=${line#'# end '}
        continue
      fi
      [[ "$line" =~ ^'# identity'(' '[A-Za-z0-9/:._@-]+){2,}$ ]] || refuse "unexpected line: ${line:0:80}"
      read -ra entry <<<"${line#'# identity '}"
      count=$((count + 1))
      ;;
    *) leaf+=$line$'\n' ;;
  esac
done < <(if [ "$source" = - ]; then cat; else cat "$source"; fi)
[ -n "$end" ] || refuse "the document has no end"
[ "$end" = "$count" ] || refuse "$count certificates where $end belong"
[ -s "$new/bundle" ] || refuse "no certificate"
size=$(names_size)
((size <= 65000)) || refuse "the names of $(wc -l <"$new/prints") certificates take $size bytes, and TLS carries 65000"

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
