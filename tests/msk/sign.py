"""The token of AWS's published signer for the credentials, region and time in JSON on standard input."""

import json
import os
import sys
from datetime import datetime

import botocore.auth
from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

wanted = json.load(sys.stdin)
at = datetime.strptime(wanted["date"], "%Y%m%dT%H%M%SZ")
botocore.auth.get_current_datetime = lambda *_, **__: at
os.environ["AWS_ACCESS_KEY_ID"] = wanted["key"]
os.environ["AWS_SECRET_ACCESS_KEY"] = wanted["secret"]
if wanted["session"]:
    os.environ["AWS_SESSION_TOKEN"] = wanted["session"]
token, _ = MSKAuthTokenProvider.generate_auth_token(wanted["region"])
print(token)
