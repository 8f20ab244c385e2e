"""Upload, send, create and result by the generated client. Arguments: the server, the account, its passcode."""

import json
import sys
import time

from tocsin_client import Client
from tocsin_client.api.campaigns import create_campaign, read_result
from tocsin_client.api.people import upload
from tocsin_client.api.send_to_people import send_push
from tocsin_client.models import (
    Campaign,
    CampaignId,
    CampaignMade,
    CampaignResult,
    Failure,
    PushContent,
    Queued,
    SendPush,
    SendRecipients,
    TokenData,
    Uploaded,
    UploadProfile,
    UploadProfileProfileData,
    UploadRecords,
    UploadToken,
    WhereJson,
)

address, account, passcode = sys.argv[1:]
headers = {"X-CleverTap-Account-Id": account, "X-CleverTap-Passcode": passcode}
client = Client(base_url=address, headers=headers, raise_on_unexpected_status=True)

data = UploadProfileProfileData.from_dict({"Name": "John"})
records = [
    UploadProfile(type_="profile", identity="john", object_id="phone", profile_data=data),
    UploadToken(type_="token", object_id="phone", token_data=TokenData(type_="fcm", id="one:fcm-registration-token")),
]
uploaded = upload.sync(client=client, body=UploadRecords(d=records))
assert isinstance(uploaded, Uploaded), uploaded

content = PushContent(title="Hi", body="there")
to = SendRecipients(identity=["john"])
queued = send_push.sync(client=client, body=SendPush(to=to, content=content), idempotency_key="python")
assert isinstance(queued, Queued), queued

asked = Campaign(name="generated", when="now", where=WhereJson(), content=content, devices=["android"])
made = create_campaign.sync(client=client, body=asked)
assert isinstance(made, CampaignMade), made

nobody = read_result.sync(client=client, body=CampaignId(id=1))
assert isinstance(nobody, Failure), nobody

deadline = time.monotonic() + 60
while isinstance(result := read_result.sync(client=client, body=CampaignId(id=made.id)), Failure):
    assert time.monotonic() < deadline, result
    time.sleep(0.05)
assert isinstance(result, CampaignResult), result

told = {"processed": uploaded.processed, "queued": queued.message, "estimates": made.estimates.to_dict()}
print(json.dumps({**told, "sent": result.result.sent, "code": nobody.code}))
