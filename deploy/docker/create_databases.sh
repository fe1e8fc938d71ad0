#!/usr/bin/env bash
# Run by the postgres image on an empty data directory: a database, and a role that owns only that, for each service.
set -euo pipefail

for role in waybill_order waybill_inventory waybill_payment waybill_fulfilment; do
  # psql reads the password itself: every user of the host sees a command line.
  # With this locale every machine sorts texts in the same way, regardless of the image's own.
  psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres --set role="$role" <<'SQL'
\set password `cat /run/secrets/:'role'`
CREATE ROLE :"role" LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEDB NOCREATEROLE;
CREATE DATABASE :"role" OWNER :"role" TEMPLATE template0
  ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8';
REVOKE ALL ON DATABASE :"role", postgres, template1 FROM PUBLIC;
SQL
done
