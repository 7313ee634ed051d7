#!/usr/bin/env bash
# Makes the secrets that docker-compose.yml mounts, in deploy/secrets; what is there already stays as it is.
#
#   deploy/make-secrets.sh [FOLDER]
#
# The folder is closed to others, the files in it are not: containers get them by bind mount, under users of their own.
set -euo pipefail
here=$(dirname "${BASH_SOURCE[0]}")
folder=${1:-$here/secrets}
(umask 0077 && mkdir -p "$folder")
umask 0333

password() {
    if [[ ! -e $folder/$1 ]]; then head -c 32 /dev/urandom | sha256sum | cut -c -64 | tr -d '\n' >"$folder/$1"; fi
}

password redis_password
password grafana_password
# The service's user may do what the service does (redis/users.acl) and nothing else; without a password one can ask
# whether the server is there, as its health check does.
if [[ ! -e $folder/valkey_users.acl ]]; then
    {
        echo 'user default on nopass resetkeys resetchannels -@all +ping'
        sed -n "s/^user emmdit on >change-this-password/user emmdit on #$(sha256sum <"$folder/redis_password" | cut -c -64)/p" "$here/redis/users.acl"
    } >"$folder/valkey_users.acl"
fi
echo "secrets are in $folder; Grafana's user is admin, its password in $folder/grafana_password"
