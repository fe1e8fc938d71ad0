"""The Collector's redaction: send every secret in every place to a real Collector, and look for it behind it."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span, Status

from tests.house import PATIENCE_SECONDS, House, wait_until
from tests.otlp import Backend, one_span, pair, send, send_spans, span_of, value_of

MADE_UP = "AbCdEf0123456789GhIjKlMnOpQrStUvWxYz"
# A text, and the part of it that must not be stored anywhere.
SECRETS = {
    "Visa": ("paid with 4111111111111111", "4111111"),
    "Visa in groups": ("4111 1111 1111 1112", "1112"),
    "Visa with hyphens": ("4111-1111-1111-1113", "1113"),
    "Visa with dots": ("card=4111.1111.1111.1114.", "1114"),
    "Visa with no-break spaces": ("4111\u00a01111\u00a01111\u00a01115", "1115"),
    "Visa in a URL": ("/cards/4111%201111%201111%201116", "1116"),
    "Visa behind a full stop": ("no.4111111111111118", "1118"),
    "Visa in a name": ("card_5111111111111117_old", "1117"),
    "Mastercard": ("5555555555554444", "4444"),
    "Mastercard of the second series": ("2223003122003222", "3222"),
    "American Express": ("378282246310005", "3782"),
    "American Express in groups": ("3782 822463 10006", "10006"),
    "Discover": ("6011000990139424", "6011"),
    "JCB": ("3530111333300000", "3530"),
    "JSON Web Token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "c2lnbmF0dXJl"),
    "encrypted JSON Web Token": ("eyJhbGciOiJSU0EifQ.a2V5.aXY.Y2lwaGVy.dGFndGFn", "dGFndGFn"),
    "Bearer": ("it sent Bearer opaque-0001", "opaque-0001"),
    "bearer in lower case": ('{"auth":"bearer opaque-0002"}', "opaque-0002"),
    "Basic": ("it sent Basic c2hvcDpodW50ZXI=", "c2hvcDpodW50ZXI"),
    "token of a payment": ("charge tok_visa_0003", "visa_0003"),
    "key of a payment provider": ("sk_live_0004abcdef", "0004abcdef"),
    "key of a cloud": ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    "header Authorization": ("Authorization: Digest nonce=0005, response=0006", "0006"),
    "header Cookie": ("Cookie: theme=dark; session=0007", "0007"),
    "header Set-Cookie": ('{"Set-Cookie":["a=1","session=0008"]}', "0008"),
    "header X-Api-Key": ("X-Api-Key: key-0009", "key-0009"),
    "password in a text": ("login with password=hunter0010 failed", "hunter0010"),
    "password of odd characters": ("login with password: $hunter0024", "hunter0024"),
    "password in JSON": ('{"password": "hunter two 0011"}', "0011"),
    "password in JSON in JSON": (json.dumps({"body": '{"password":"hunter0012"}'}), "hunter0012"),
    "secrets in a list": ('{"secret":["first-0013","second-0014"]}', "second-0014"),
    "security code": ('{"cvv":"0015"}', "0015"),
    "password in a URL": ("postgresql://shop:hunter0016@db/orders", "hunter0016"),
    "password with an @ in a URL": ("redis://:hun@ter0017@cache:6379/0", "ter0017"),
    "token in a URL": ("https://deploy0018@git/shop.git", "deploy0018"),
    "e-mail address": ("to jane.doe+shop@example.org", "jane"),
    "e-mail address in a path": ("/users/mary%40example.org/orders", "mary"),
    "e-mail address with umlauts": ("jürgen@müller.example", "rgen"),
    "query": ("https://shop.example/pay?voucher=summer0019&page=2", "summer0019"),
    "query of a single word": ("GET /reset?summer0020", "summer0020"),
    "query of numbers": ("/reset?00219876", "00219876"),
    "fragment": ("https://shop.example/back#state=summer0022", "summer0022"),
    "token of GitHub, fine-grained": (f"github_pat_11{MADE_UP}_{MADE_UP}", MADE_UP),
    "token of GitHub": (f"ghs_{MADE_UP}", MADE_UP),
    "token of GitLab": (f"glpat-{MADE_UP[:20]}", MADE_UP[:20]),
    "token of a deployment of GitLab": (f"gldt-{MADE_UP[:20]}", MADE_UP[:20]),
    "token of Grafana": (f"glsa_{MADE_UP}_0a1b2c3d", MADE_UP),
    "key of a project of OpenAI": (f"sk-proj-{MADE_UP}T3Blbk{MADE_UP}", MADE_UP),
    "key of OpenAI with hyphens": (f"sk-proj-a-b_{MADE_UP}", MADE_UP),
    "key of OpenAI": (f"sk-{MADE_UP}T3Blbk", MADE_UP),
    "key of Anthropic": (f"sk-ant-api03-{MADE_UP}", MADE_UP),
    "key of Google": (f"AIzaSy{MADE_UP[:33]}", MADE_UP[:33]),
    "access token of Google": (f"ya29.{MADE_UP}", MADE_UP),
    "temporary key of AWS": (f"ASIA{MADE_UP[:16].upper()}", MADE_UP[:16].upper()),
    "token of Slack": (f"xoxe-1-{MADE_UP}", MADE_UP),
    "token of an app of Slack": (f"xapp-1-{MADE_UP}", MADE_UP),
    "secret of a webhook of Stripe": (f"whsec_{MADE_UP}", MADE_UP),
    "restricted key of Stripe": (f"rk_live_{MADE_UP}", MADE_UP),
    "token of npm": (f"npm_{MADE_UP}", MADE_UP),
    "key of SendGrid": (f"SG.{MADE_UP[:22]}.{MADE_UP}{MADE_UP[:7]}", MADE_UP),
    "token of Hugging Face": (f"hf_{MADE_UP}", MADE_UP),
    "token of PyPI": (f"pypi-AgEIcHlwaS5vcmc{MADE_UP}", MADE_UP),
    "token of Vault": (f"hvs.{MADE_UP}", MADE_UP),
    "token of Docker Hub": (f"dckr_pat_{MADE_UP}", MADE_UP),
    "token of Shopify": ("shpat_" + "0a1b2c3d" * 4, "0a1b2c3d"),
    "token of Sentry": (f"sntrys_{MADE_UP}", MADE_UP),
    "JSON Web Token that was cut off": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJob", "eyJzdWIiOiJob"),
    "private key": ("-----BEGIN PRIVATE KEY-----\nMIIEvQhunter0025\n-----END PRIVATE KEY-----", "0025"),
    "private key of a kind": (
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEvQhunter0026\n-----END RSA PRIVATE KEY-----",
        "0026",
    ),
    "private key that was cut off": ("-----BEGIN EC PRIVATE KEY-----\nMIIEvQhunter0027", "0027"),
    "password of ODBC": ("DRIVER={ODBC Driver 18};SERVER=db;UID=sa;PWD=hunter0028", "0028"),
    "password of ODBC in braces": ("DRIVER={ODBC Driver 18};PWD={hun;ter0029};UID=sa", "0029"),
    "pwd in JSON": ('{"user":"a","pwd":"hunter0030"}', "0030"),
    "passphrase": ("passphrase=hunter0031", "0031"),
    "one-time password": ("otp: 003200", "003200"),
    "id of a session": ("sessionid=hunter0033", "0033"),
    "id of a session in JSON": ('{"session_id":"hunter0034"}', "0034"),
    "signature of a request": ("X-Amz-Signature=hunter0035&X-Amz-Date=1", "0035"),
    "access key": ("aws_secret_access_key = hunter0036", "0036"),
    "password in SQL": ("UPDATE users SET password='hunter0037' WHERE id=1", "0037"),
    "new user in SQL": ("CREATE USER a IDENTIFIED BY 'hunter0038'", "0038"),
    "new user in SQL, with a plugin": ("CREATE USER a IDENTIFIED WITH mysql_native BY 'hunter0039'", "0039"),
    "new password in SQL": ("ALTER USER a WITH PASSWORD 'hunter0040'", "0040"),
    "card in SQL": ("INSERT INTO cards (number) VALUES (4111111111110041)", "0041"),
    "card in groups in SQL": ("SELECT 4111 1111 1111 1042", "1042"),
    "e-mail address in SQL": ("SELECT id FROM users WHERE mail = 'jane0043@example.org'", "0043"),
    "unquoted password in SQL": ("UPDATE users SET password = hunter0044 WHERE id = 1", "0044"),
    "user and password for curl": ("curl -s -u admin:hunter0045 http://x", "0045"),
    "password on a command line": ("mysql -h db --password hunter0046", "0046"),
    "token on a command line": ("deploy --api-token 'hunter0047' now", "0047"),
    "password in a form": ("user=a&password%3Dhunter0048", "0048"),
    "password in XML": ("<user><password>hunter0049</password></user>", "0049"),
    "key of an account of Azure": (f"AccountName=shop;AccountKey={MADE_UP}Ab+/{MADE_UP}==;Suffix=x", MADE_UP),
    "key of Azure in lower case": (f"account_key={MADE_UP}", MADE_UP),
    "key for shared access": (f"Endpoint=sb://a/;SharedAccessKeyName=root;SharedAccessKey={MADE_UP}=", MADE_UP),
    "signature for shared access": (f"SharedAccessSignature sr=a&sig={MADE_UP}%3D&se=1", MADE_UP),
    "secret of Entra": (f"aB18Q~{MADE_UP[:34]}", MADE_UP[:34]),
    "token of Atlassian": (f"ATATT3xFfGF0{MADE_UP}_{MADE_UP}=0A1B2C3D", MADE_UP),
    "key of age": (f"AGE-SECRET-KEY-1{MADE_UP.upper()}{MADE_UP.upper()[:22]}", MADE_UP.upper()),
    "key of RubyGems": ("rubygems_" + "0a1b2c3d" * 6, "0a1b2c3d"),
    "token of Figma": (f"figd_{MADE_UP}-x", MADE_UP),
    "key of xAI": (f"xai-{MADE_UP}{MADE_UP}", MADE_UP),
    "token of Square": (f"sq0atp-{MADE_UP[:22]}", MADE_UP[:22]),
    "secret of an application of Square": (f"sq0csp-{MADE_UP}-{MADE_UP[:6]}", MADE_UP),
    "newer token of Square": (f"EAAA{MADE_UP}_{MADE_UP[:20]}", MADE_UP),
    "token of Facebook": (f"EAAM{MADE_UP}{MADE_UP}", MADE_UP),
    "token of Replicate": (f"r8_{MADE_UP}", MADE_UP),
    "key of New Relic": (f"NRAK-{MADE_UP.upper()[:27]}", MADE_UP.upper()[:27]),
    "key of Postman": ("PMAK-" + "0a1b2c3d" * 3 + "-" + "4e5f6a7b" * 4, "4e5f6a7b"),
    "refresh token of Google": (f"1//0g{MADE_UP}-{MADE_UP}", MADE_UP),
    "secret of a client of Google": (f"GOCSPX-{MADE_UP[:28]}", MADE_UP[:28]),
    "key of Amazon Bedrock": (f"ABSK{MADE_UP}{MADE_UP}==", MADE_UP),
    "token of Terraform": (f"{MADE_UP[:14]}.atlasv1.{MADE_UP}", MADE_UP),
    "token of 1Password": (f"ops_eyJ{MADE_UP}", MADE_UP),
    "key of Linear": (f"lin_oauth_{MADE_UP}", MADE_UP),
    "key of Brevo": ("xkeysib-" + "0a1b2c3d" * 8, "0a1b2c3d"),
    "password of PlanetScale": (f"pscale_pw_{MADE_UP}", MADE_UP),
    "webhook of Slack": (f"https://hooks.slack.com/services/T0AB1CD2E/B0AB1CD2E/{MADE_UP[:24]}", MADE_UP[:24]),
    "webhook of Discord": (f"https://discord.com/api/webhooks/123456789012/{MADE_UP}-x", MADE_UP),
    "token of Notion": (f"ntn_{MADE_UP}", MADE_UP),
    "token of Netlify": (f"nfp_{MADE_UP}", MADE_UP),
    "key of PostHog": (f"phx_{MADE_UP}", MADE_UP),
    "token of Sourcegraph": ("sgp_" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "token of Supabase": ("sbp_" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "key of Pinecone": (f"pcsk_{MADE_UP}", MADE_UP),
    "token of SonarQube": ("squ_" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "token of Fly.io": (f"fo1_{MADE_UP}", MADE_UP),
    "key of Perplexity": (f"pplx-{MADE_UP}", MADE_UP),
    "token of Pulumi": ("pul-" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "key of Tailscale": (f"tskey-auth-{MADE_UP[:16]}-{MADE_UP}", MADE_UP),
    "key of NVIDIA": (f"nvapi-{MADE_UP}", MADE_UP),
    "key of Heroku": (f"HRKU-AA{MADE_UP}", MADE_UP),
    "token of Databricks": ("dapi" + "0a1b2c3d" * 4, "0a1b2c3d"),
    "token of Dynatrace": (f"dt0c01.{MADE_UP.upper()[:24]}.{MADE_UP.upper()}", MADE_UP.upper()),
    "token of Doppler": (f"dp.pt.{MADE_UP}", MADE_UP),
    "key of Alibaba": (f"LTAI{MADE_UP[:20]}", MADE_UP[:20]),
    "key of Artifactory": (f"AKCp{MADE_UP}{MADE_UP}", MADE_UP),
    "key of EasyPost": (f"EZAK{MADE_UP}{MADE_UP[:18]}", MADE_UP),
    "key of NuGet": ("oy2" + MADE_UP.lower() + MADE_UP.lower()[:7], MADE_UP.lower()),
    "token of OpenShift": (f"sha256~{MADE_UP}", MADE_UP),
    "token of Contentful": (f"CFPAT-{MADE_UP}", MADE_UP),
    "token of CircleCI": (f"CCIPAT_{MADE_UP}_x", MADE_UP),
    "token of Clojars": ("CLOJARS_" + "0a1b2c3d" * 7, "0a1b2c3d"),
    "token of Apify": (f"apify_api_{MADE_UP}", MADE_UP),
    "token of a bot of Telegram": (f"bot123456789:AA{MADE_UP[:33]}", MADE_UP[:33]),
    "key of Twilio": ("SK" + "0a1b2c3d" * 4, "0a1b2c3d"),
    "key of Mailchimp": ("0a1b2c3d" * 4 + "-us12", "0a1b2c3d"),
    "token of a feature flag of GitLab": (f"glffct-{MADE_UP[:20]}", MADE_UP[:20]),
    "secret of an application of GitLab": (f"gloas-{MADE_UP}{MADE_UP[:28]}", MADE_UP),
    "registration of a runner of GitLab": (f"GR1348941{MADE_UP[:20]}", MADE_UP[:20]),
    "session of GitLab": ("_gitlab_session=" + "0a1b2c3d" * 4, "0a1b2c3d"),
    "older key of Grafana": (f"eyJrIjoi{MADE_UP}{MADE_UP}", MADE_UP),
    "secret key of 1Password": ("A3-ABCDEF-GHIJKL-MNOPQ-RSTUV-WXYZ2-34567", "GHIJKL"),
    "secret of a client of Adobe": (f"p8e-{MADE_UP[:32]}", MADE_UP[:32]),
    "reference token of Artifactory": (f"cmVmdG{MADE_UP}{MADE_UP[:22]}", MADE_UP),
    "key of an origin of Cloudflare": ("v1.0-" + "0a1b2c3d" * 3 + "-" + "4e5f6a7b" * 18, "4e5f6a7b"),
    "key of ClickHouse": (f"4b1d{MADE_UP}Ab", MADE_UP),
    "key of Defined Networking": (f"dnkey-{MADE_UP[:26]}-{MADE_UP}{MADE_UP[:16]}", MADE_UP),
    "token of Duffel": (f"duffel_live_{MADE_UP}{MADE_UP[:7]}", MADE_UP),
    "key of Flutterwave": ("FLWSECK_TEST-" + "0a1b2c3d" * 4 + "-X", "0a1b2c3d"),
    "token of a macaroon of Fly.io": (f"fm2_{MADE_UP}{MADE_UP}{MADE_UP}", MADE_UP),
    "token of Frame.io": (f"fio-u-{MADE_UP}{MADE_UP[:28]}", MADE_UP),
    "token of Harness": (f"pat.{MADE_UP[:22]}.{MADE_UP[:24]}.{MADE_UP[:20]}", MADE_UP[:20]),
    "token of an organisation of Hugging Face": (f"api_org_{MADE_UP}", MADE_UP),
    "key of Infracost": (f"ico-{MADE_UP[:32]}", MADE_UP[:32]),
    "secret of 42": ("s-s4t2ud-" + "0a1b2c3d" * 8, "0a1b2c3d"),
    "key of MaxMind": (f"AbCdEf_{MADE_UP[:29]}_mmk", MADE_UP[:29]),
    "key of Octopus Deploy": (f"API-{MADE_UP.upper()[:26]}", MADE_UP.upper()[:26]),
    "token of Plaid": ("access-production-0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d", "4e5f-6a7b"),
    "key of Prefect": (f"pnu_{MADE_UP}", MADE_UP),
    "key of ReadMe": (f"rdme_{MADE_UP.lower()}{MADE_UP.lower()[:34]}", MADE_UP.lower()),
    "token of Scalingo": (f"tk-us-{MADE_UP}{MADE_UP[:12]}", MADE_UP),
    "token of SettleMint": (f"sm_pat_{MADE_UP[:16]}", MADE_UP[:16]),
    "token of Shippo": ("shippo_live_" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "production key of Stripe": (f"sk_prod_{MADE_UP}", MADE_UP),
    "token of Typeform": (f"tfp_{MADE_UP}_{MADE_UP[:22]}", MADE_UP),
    "key of Yandex": (f"AQVN{MADE_UP}", MADE_UP[:35]),
    "token of X": ("A" * 22 + f"{MADE_UP}%2F{MADE_UP}{MADE_UP[:9]}", MADE_UP),
    "newer key of Supabase": (f"sb_secret_{MADE_UP[:31]}", MADE_UP[:31]),
    "key of Neon": (f"napi_{MADE_UP.lower()}", MADE_UP.lower()),
    "token of LangSmith": ("lsv2_pt_" + "0a1b2c3d" * 4 + "_0a1b2c", "0a1b2c3d"),
    "token of Buildkite": ("bkua_" + "0a1b2c3d" * 5, "0a1b2c3d"),
    "key of Razorpay": (f"rzp_live_{MADE_UP[10:24]}", MADE_UP[10:24]),
    "token of Airtable": (f"pat{MADE_UP[:14]}." + "0a1b2c3d" * 8, "0a1b2c3d"),
    "token of HubSpot": ("pat-na1-0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d", "4e5f-6a7b"),
    "webhook of Teams": (
        "https://shop.webhook.office.com/webhookb2/0a1b2c3d-4e5f@6a7b-8c9d/IncomingWebhook/0e1f2a3b4c5d/6e7f",
        "0e1f2a3b4c5d",
    ),
    "Visa as a list of digits": ('{"card":[4,1,1,1,1,1,1,1,1,1,1,1,1,0,5,2]}', "1,1,1"),
    "Visa as a list of texts": ('["4","1","1","1","1","1","1","1","1","1","1","1","1","0","5","3"]', '"1","1"'),
    "American Express as a list of digits": ("[3, 7, 8, 2, 8, 2, 2, 4, 6, 3, 1, 0, 0, 5, 4]", "8, 2, 8"),
    "Visa as a list of groups": ('["4111","1111","1111","1055"]', "1055"),
    "password whose end was cut off": ('{"password": "hunter 0050', "0050"),
}
SECRET_KEYS = (
    "http.request.header.authorization",
    "http.request.header.cookie",
    "http.response.header.set-cookie",
    "http.request.header.x-api-key",
    "db.password",
    "PASSWD",
    "client_secret",
    "payment_token",
    "card.cvv",
    "url.query",
    "pwd",
    "user.pwd",
    "passphrase",
    "passcode",
    "private_key",
    "ssh.privateKey",
    "access_key",
    "aws_secret_access_key",
    "session.id",
    "session_id",
    "sessionId",
    "connect.sid",
    "jwt",
    "otp",
    "card.pin",
    "bearer",
    "auth",
    "http.request.header.x-auth",
    "http.request.header.proxy-authorization",
    "x-amz-security-token",
    "x-amz-signature",
    "credentials",
    # Names with more words, and names in camel case.
    "password2",
    "password_hash",
    "new_password",
    "password_confirmation",
    "password_reset_token",
    "password_reset_code",
    "authorization_code",
    "secret_id",
    "api_keys",
    "apiKeyValue",
    "privateKeyPem",
    "azure.storage.account_key",
    "AccountKey",
    "signing_key",
    "encryption_key",
    "cardCvv",
    "card_cvc2",
    "csrf_token",
    "mcp.session.id",
)
HIDDEN = "hidden0023"
LONGEST, LONGEST_NAME = 16_384, 512
"""In bytes, as collector-config.yaml has it."""

# Names that contain the letters of a secret's name.
ORDINARY_KEYS = (
    "customer.language.spoken",
    "secretary.name",
    "book.author",
    "url.authority",
    "auth.method",
    "process.pid",
    "passenger.count",
    "shipping.topic",
    "tokenizer.name",
    "token.count",
    "session.length",
    "key",
    "keyboard.layout",
    "cluster.sidecar",
    "spinning",
    "opinion",
    # Names from the conventions, and from common code.
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "gen_ai.token.type",
    "gen_ai.request.max_tokens",
    "llm.token_count.total",
    "max_tokens",
    "auth.type",
    "auth.provider",
    "authentication.type",
    "authn.method",
    "authorization_id",
    "authorization.status",
    "authorization.outcome",
    "authors",
    "http.request.header.authority",
    "password_reset",
    "passwordReset",
    "password.changed_at",
    "password.policy",
    "password_length",
    "password_expired",
    "password_attempts",
    "passwordless.enabled",
    "secret.name",
    "secret_version",
    "aws.secretsmanager.secret.arn",
    "k8s.secret.name",
    "credential.type",
    "credentials.provider",
    "cookie_consent",
    "cookie.policy",
    "cookies.accepted",
    "cookiecutter.version",
    "session.duration",
    "session.start",
    "session.previous_id",
    "session_idle_timeout",
    "session_identity",
    "sessions.count",
    "api.keyboard",
    "api.keywords",
    "private.keyring_path",
    "access.keypad",
    "account.keystone",
    "api_key_id",
    "kms.key_id",
    "primary_key",
    "foreign_key",
    "partition.key",
    "routing_key",
    "messaging.rabbitmq.destination.routing_key",
    "messaging.kafka.message.key",
    "aws.s3.key",
    "feature_flag.key",
    "cassandra.keyspace",
    "compass.heading",
    "passenger",
    "passed",
    "bypass",
    "card.brand",
    "card.last4",
    "card.type",
    "cvv_result",
    "cvv.match",
    "socket.recvCount",
    "recvcount",
    "jwt.issuer",
    "code.function.name",
    "code.function.signature",
    "method.signature",
    "signature.algorithm",
    "pinned",
    "topics.opted",
    "sidebar.open",
    "reside",
    "bearing",
    "basic",
    "broken",
    "process.parent_pid",
    "process.command_line",
    "process.working_directory",
    "thread.name",
    "enduser.role",
    "user.roles",
    "oauth.scope",
    "oauth.grant_type",
    "client.id",
    "tls.client.issuer",
    "tls.cipher",
    "db.operation.name",
    "db.client.connection.pool.name",
    "messaging.client.id",
    "faas.trigger",
    "cloud.account.id",
    "host.id",
    "exception.type",
    "feature_flag.provider.name",
    "graphql.operation.name",
    "rpc.service",
    "event.name",
    "security_rule.name",
    "geo.country.iso_code",
)
# Ordinary words, which a rule that is too broad would remove.
ORDINARY: Sequence[Any] = (
    "GET /orders/<uuid:order_id>",
    "http://127.0.0.1:8002/reservations/41234567-1234-4123-8123-123456789012",
    "0af7651916cd43dd8448eb211c80319c",
    "1732400000000-0",
    "1732400000000000000",
    "2026-11-24T01:26:41.123456+00:00",
    "TEA-EARL-GREY",
    "INSERT INTO orders (id, total) VALUES (%(id)s::UUID, %(total)s) RETURNING orders.id",
    "SELECT * FROM orders WHERE id = ? AND status IN (?, ?) OR total > ?1 AND note = $1",
    "UPDATE users SET password = $1, token=%(token)s, api_key = ?, secret=:secret, cvv=%s WHERE id = $2",
    "MGET ? ? ?",
    "python-requests/2.32.5",
    "svc: shop, tokens: 12, compass: north",
    "Basic authentication is not offered. Is it running? Yes.",
    "it took 0.4123456789012345 s",
    "9 spans were lost: 127.0.0.1:4317 did not take them",
    "REDACTED",
    "requests.exceptions.ReadTimeout",
    '  File "services/order/process.py", line 41, in charge  # see issue #12\n    @retry(times=3)\n',
    "4111 and 1111, 2400,2500,2600,2700",
    # Words that contain the name of a secret, or its letters.
    "Languages spoken: German, English; spoken=2, broken: no, woken = yes",
    "secretary: Anna, secretariat=open, discretion: advised",
    "svc: shop, java.awt: 3, process_id: 17, access_id: 4, hotpot: 2, topic=orders",
    "author: Jane, authority=local, authentication: none, passenger: 4, passed=12, compass: north",
    "tokenizer: fast, tokens=12, keyboard: de, monkey=1, session: open, sessions: 4, cookies and credentials",
    "a bearer of good news, the bearer token is missing, basic needs, identified by a number",
    "task-0af7651916cd43dd8448eb211c80319c, disk-usage-percentage-total, risk-management",
    "npm_config_registry, npm_lifecycle_event, hf_transformers_version, pypi-publish-action, ASIAPACIFICHEADQUARTERS",
    "glacier-storage-eu-west-1-archive, highs_and_lows, global-load-balancer-frontend, Azure, AI",
    "PWD=/srv/app OLDPWD=/srv",
    "docker run -u 1000:1000 --rm image, curl -s http://127.0.0.1:8000/orders",
    "-----BEGIN CERTIFICATE-----",
    "eyJpZCI6MTczMjQwMDAwMDAwMH0",
    "password is required; the token has expired; no API key given",
    "SELECT t.id, count(*) FROM t JOIN o ON o.id = t.o WHERE t.a != ? AND t.b >= $1 GROUP BY 1 LIMIT 100",
    "the password reset was sent, api keyboard layout de, password_reset=1, token_count: 12, max_tokens=100",
    "API-FIRST, access-production-database, duffel_test, tk-us-east-1, glc_, ico-arrow-left, pat.name, fm1_radio",
    "phc_project, hf_transformers, r8_list, sq0-list, xai-grok-model, figd_, EAAA, NRAK, 1//0, sha256~, dapi, oy2",
    "http://127.0.0.1:8001//0/items, sig=12, key-0af7651916cd43dd8448eb211c80319c, 10:AA, FAQ~",
    "passwordless sign-in, cookie consent, authorization status, compass heading, passenger count",
    True,
    1732400000000000000,
    4111,
    0.4123456789012345,
    [1732400000000, 2400, 2500],
    # As many as a card has digits, and beginning like none; as many years as a card has groups.
    [0, 0, 1, 4, 7, 9, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ["2022", "2023", "2024", "2025"],
    {"sku": "TEA-EARL-GREY", "quantity": 2, "prices": [0.4123456789012345, 450]},
)


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    with Backend() as backend:
        yield backend


@pytest.fixture(scope="module")
def house(backend: Backend) -> Iterator[House]:
    """A Collector, with the backend behind it."""
    with House({"JAEGER_OTLP_ENDPOINT": backend.address}) as house:
        house.start("collector")
        yield house


Place = Callable[[ResourceSpans, str], object]


def in_attribute(of: ResourceSpans, text: str) -> None:
    span_of(of).attributes.append(pair("note", text))


def in_array(of: ResourceSpans, text: str) -> None:
    span_of(of).attributes.append(pair("notes", ["first", text]))


def in_map(of: ResourceSpans, text: str) -> None:
    span_of(of).attributes.append(pair("notes", {"outer": {"inner": ["first", text]}}))


def in_resource(of: ResourceSpans, text: str) -> None:
    of.resource.attributes.append(pair("process.command_args", ["python", text]))


def in_scope(of: ResourceSpans, text: str) -> None:
    of.scope_spans[0].scope.attributes.append(pair("note", text))


def in_name(of: ResourceSpans, text: str) -> None:
    span_of(of).name = text


def in_status(of: ResourceSpans, text: str) -> None:
    span_of(of).status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message=text))


def in_trace_state(of: ResourceSpans, text: str) -> None:
    span_of(of).trace_state = f"vendor={text}"


def in_event_name(of: ResourceSpans, text: str) -> None:
    span_of(of).events.append(Span.Event(name=text))


def in_event(of: ResourceSpans, text: str) -> None:
    attributes = [pair("exception.message", text), pair("notes", [text])]
    span_of(of).events.append(Span.Event(name="exception", attributes=attributes))


def in_link(of: ResourceSpans, text: str) -> None:
    span_of(of).links.append(Span.Link(trace_id=bytes(16), span_id=bytes(8), attributes=[pair("note", text)]))


def in_bytes(of: ResourceSpans, text: str) -> None:
    span_of(of).attributes.append(pair("note", text.encode()))


def in_key(of: ResourceSpans, text: str) -> None:
    span_of(of).attributes.append(pair(text, "note"))


def in_scope_name(of: ResourceSpans, text: str) -> None:
    of.scope_spans[0].scope.name = text


REACHED: Sequence[Place] = (
    in_attribute,
    in_array,
    in_map,
    in_resource,
    in_scope,
    in_name,
    in_status,
    in_trace_state,
    in_event_name,
    in_event,
)
NOT_REACHED: Sequence[Place] = (in_link, in_bytes, in_key, in_scope_name)
"""The places in docs/pipeline.md that are not searched."""


@pytest.mark.parametrize("place", REACHED)
def test_no_secret_gets_through_in_a_span(house: House, backend: Backend, place: Place) -> None:
    leaked = [name for name, found in secrets_behind(house, backend, place).items() if found]
    assert leaked == []


@pytest.mark.parametrize("place", NOT_REACHED)
def test_what_no_rule_reaches_is_as_the_documentation_says(house: House, backend: Backend, place: Place) -> None:
    assert all(secrets_behind(house, backend, place).values())


def secrets_behind(house: House, backend: Backend, place: Place) -> dict[str, bool]:
    """Return the secrets that the backend sees, each sent in its own span in this place."""
    spans = {name: one_span() for name in SECRETS}
    for name, (text, _) in SECRETS.items():
        place(spans[name], text)
    send_spans(house, list(spans.values()))
    arrived = backend.wait_for({span_of(of).span_id for of in spans.values()})
    return {
        name: secret.encode() in arrived[span_of(spans[name]).span_id].SerializeToString()
        for name, (_, secret) in SECRETS.items()
    }


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_what_stands_under_the_name_of_a_secret_does_not_get_through(house: House, backend: Backend, key: str) -> None:
    of = one_span()
    values: Sequence[Any] = (HIDDEN, [HIDDEN, f"{HIDDEN} again"], {"value": HIDDEN}, HIDDEN.encode())
    for value in values:
        span_of(of).events.append(Span.Event(name="tried", attributes=[pair(key, value)]))
        of.resource.attributes.append(pair(key, value))
    span_of(of).attributes.append(pair(key, [HIDDEN]))
    if key != "url.query":  # In a map it would be any "query".
        span_of(of).attributes.append(pair("request", {"headers": {key: [HIDDEN, f"{HIDDEN} again"]}}))
    send_spans(house, [of])
    [arrived] = backend.wait_for({span_of(of).span_id}).values()
    assert HIDDEN.encode() not in arrived.SerializeToString()


def test_a_card_number_that_is_a_number_does_not_get_through(house: House, backend: Backend) -> None:
    of = one_span()
    span_of(of).attributes.append(pair("card", 4111111111111111))
    span_of(of).attributes.append(pair("cards", [4111111111111111]))
    digits = [int(digit) for digit in "4111111111111111"]
    span_of(of).attributes.append(pair("digits", digits))
    span_of(of).attributes.append(pair("texts", list("378282246310005")))
    span_of(of).attributes.append(pair("groups", ["4111", "1111", "1111", "1111"]))
    span_of(of).attributes.append(pair("form", {"card": {"number": digits}}))
    span_of(of).events.append(Span.Event(name="paid", attributes=[pair("digits", digits)]))
    of.resource.attributes.append(pair("digits", digits))
    send_spans(house, [of])
    [arrived] = backend.wait_for({span_of(of).span_id}).values()
    found = [*span_of(arrived).attributes, *span_of(arrived).events[0].attributes, *arrived.resource.attributes]
    assert [attribute.key for attribute in found if "****" not in attribute.value.string_value] == []
    assert "4111" not in str(arrived)


def test_all_else_gets_through_as_it_is(house: House, backend: Backend) -> None:
    of = one_span()
    span = span_of(of)
    texts = [value for value in ORDINARY if isinstance(value, str)]
    everything = [pair(f"ordinary.{number}", value) for number, value in enumerate(ORDINARY)]
    everything += [pair(f"ordinary.{number}.{number}", [value]) for number, value in enumerate(ORDINARY)]
    # Our own services' replacement for a query.
    named = [pair("url.query", "REDACTED"), pair("k8s.svc", "shop"), pair("input_tokens", 12)]
    span.attributes.extend([*everything, *named, *(pair(key, "German") for key in ORDINARY_KEYS)])
    of.resource.attributes.extend(everything)
    of.scope_spans[0].scope.attributes.extend(everything)
    span.status.CopyFrom(Status(code=Status.STATUS_CODE_ERROR, message="; ".join(texts)))
    span.trace_state = "vendor=00f067aa0ba902b7,ot=th:8"
    span.events.extend(Span.Event(name=text, time_unix_nano=1, attributes=everything) for text in texts)
    span.links.append(Span.Link(trace_id=span.trace_id, span_id=span.span_id, attributes=everything))
    spans = [of, *(one_span(name=text) for text in texts)]
    send_spans(house, spans)
    arrived = backend.wait_for({span_of(one).span_id for one in spans})
    for one in spans:
        assert str(arrived[span_of(one).span_id]) == str(one)


def test_what_is_too_long_is_cut_and_searched(house: House, backend: Backend) -> None:
    of = one_span("GET /" + "ä" * 1000)
    secret = "password=hunter0051 "
    long = secret + "é" * 20_000
    of.resource.attributes.append(pair("note", long))
    span_of(of).attributes.append(pair("note", long))
    span_of(of).attributes.append(pair("end", "x" * (LONGEST - 10) + " password=hunter0051"))
    span_of(of).events.append(Span.Event(name="exception", attributes=[pair("exception.stacktrace", long)]))
    send_spans(house, [of])
    [arrived] = backend.wait_for({span_of(of).span_id}).values()
    assert "hunter" not in str(arrived)
    for note in (arrived.resource, span_of(arrived), span_of(arrived).events[0]):
        text = note.attributes[0].value.string_value
        assert text.startswith("**** éé")
        assert len(text.encode()) < LONGEST
    assert span_of(arrived).name.startswith("GET /ää")
    assert len(span_of(arrived).name.encode()) <= LONGEST_NAME


def test_no_secret_gets_through_in_a_log(house: House) -> None:
    def records(text: str) -> Iterator[LogRecord]:
        yield LogRecord(body=value_of(text))
        yield LogRecord(body=value_of([text]))
        yield LogRecord(body=value_of({"request": {"notes": [text], "authorization": HIDDEN}}))
        yield LogRecord(attributes=[pair("note", text), pair("notes", {"inner": [text]}), pair("password", HIDDEN)])

    kept = [LogRecord(body=value_of(value)) for value in ORDINARY if isinstance(value, str)]
    sent = [record for text, _ in SECRETS.values() for record in records(text)] + kept
    resource = Resource(attributes=[pair("notes", [text for text, _ in SECRETS.values()])])
    logs = ResourceLogs(resource=resource, scope_logs=[ScopeLogs(log_records=sent)])
    send(house, "logs.v1.LogsService", ExportLogsServiceRequest(resource_logs=[logs]))

    file = house.folder / "logs/services.jsonl"
    wait_until(lambda: file.exists() and ORDINARY[0] in file.read_text(), "the logs are written")
    written = file.read_text()
    arrived = [record for line in written.splitlines() for record in records_of(json.loads(line))]
    assert len(arrived) == len(sent)
    assert arrived[-len(kept) :] == [{"stringValue": record.body.string_value} for record in kept]
    # Without what JSON escapes.
    texts = json.dumps(json.loads(written), ensure_ascii=False)
    assert [name for name, (_, secret) in SECRETS.items() if secret in texts] == []
    assert HIDDEN not in texts


def test_no_secret_gets_through_in_a_metric(house: House) -> None:
    points = [NumberDataPoint(as_int=1, attributes=[pair("note", text)]) for text, _ in SECRETS.values()]
    points.append(NumberDataPoint(as_int=2, attributes=[pair("password", HIDDEN)]))
    points.append(NumberDataPoint(as_int=3, attributes=[pair("sku", "TEA-EARL-GREY")]))
    resource = Resource(
        attributes=[pair("service.name", "payment"), pair("api_key", HIDDEN), pair("note", SECRETS["Visa"][0])]
    )
    metric = Metric(name="shop.stock", gauge=Gauge(data_points=points))
    metrics = ResourceMetrics(resource=resource, scope_metrics=[ScopeMetrics(metrics=[metric])])
    send(house, "metrics.v1.MetricsService", ExportMetricsServiceRequest(resource_metrics=[metrics]))

    wait_until(lambda: 'sku="TEA-EARL-GREY"' in shown(house), "the metric is shown")
    page = shown(house)
    lines = "\n".join(line for line in page.splitlines() if line.startswith(("shop_stock", "target_info")))
    assert 'password="****"' in lines
    assert [name for name, (_, secret) in SECRETS.items() if secret in lines] == []
    assert HIDDEN not in page


def test_no_secret_gets_through_in_what_is_counted_of_spans(house: House) -> None:
    of = one_span("GET /pay?voucher=summer0019")
    of.resource.attributes.append(pair("service.name", "till"))
    send_spans(house, [of])

    def counted() -> list[str]:
        lines = [line for line in shown(house).splitlines() if 'service_name="till"' in line]
        return [line for line in lines if line.startswith("traces_span_metrics_calls")]

    wait_until(counted, "the span is counted")
    assert 'span_name="GET /pay' in counted()[0]
    assert "summer0019" not in shown(house)


def records_of(line: dict[str, Any]) -> Iterator[Any]:
    """Yield the bodies of the log records in a line of the file."""
    for resource in line["resourceLogs"]:
        for scope in resource["scopeLogs"]:
            yield from (record.get("body", {}) for record in scope["logRecords"])


def shown(house: House) -> str:
    """Return the metrics that the Collector serves."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{house.settings.metrics_port}/metrics", timeout=PATIENCE_SECONDS).text
