"""What Daraja's well-known result codes mean (daraja.md §2.4, §4.6, §6.1). Pure.

Which of them end a payment is not decided here, but in `domain/adapters/daraja`.
"""

from __future__ import annotations

from collections.abc import Mapping

from domain.explanations.words import Words

_LOW = Words(
    "The amount is below M-PESA's minimum.",
    "Kiasi ni chini ya kiwango cha chini cha M-PESA.",
)
_HIGH = Words(
    "The amount is above M-PESA's maximum for one payment.",
    "Kiasi kinazidi kikomo cha M-PESA cha muamala mmoja.",
)
_BUSY = Words(
    "M-PESA was too busy. The payment must be checked before it is tried again.",
    "M-PESA ilikuwa na shughuli nyingi. Malipo yakaguliwe kabla ya kujaribu tena.",
)
_SUCCESS = Words("M-PESA completed the payment.", "M-PESA ilikamilisha malipo.")
_PROMPT_LONG = Words(
    "The text of the request on the phone was too long.",
    "Maandishi ya ombi kwenye simu yalikuwa marefu mno.",
)
_RESTRICTED = Words(
    "The status of the account, or a rule of M-PESA, forbids the payment.",
    "Hali ya akaunti, au kanuni ya M-PESA, hairuhusu malipo haya.",
)
_SHORTCODE = Words(
    "M-PESA does not accept our short code or till for this kind of payment.",
    "M-PESA haikubali nambari yetu ya paybill au till kwa aina hii ya malipo.",
)
_OUR_REQUEST = Words(
    "M-PESA refused our request as malformed. Our settings or the service are wrong.",
    "M-PESA ilikataa ombi letu kwa sababu halikuwa sahihi. Mipangilio yetu au huduma ina kosa.",
)

DEPOSIT_CODES: Mapping[str, Words] = {
    "0": _SUCCESS,
    "1": Words(
        "The customer did not have enough money in M-PESA, Fuliza included.",
        "Mteja hakuwa na salio la kutosha la M-PESA, hata pamoja na Fuliza.",
    ),
    "2": _LOW,
    "3": _HIGH,
    "4": Words(
        "The customer would exceed M-PESA's limit of a day.",
        "Mteja angezidi kikomo cha M-PESA cha siku moja.",
    ),
    "8": Words(
        "The receiving account would hold more than M-PESA allows.",
        "Akaunti inayopokea ingekuwa na salio linalozidi kikomo cha M-PESA.",
    ),
    "17": Words(
        "M-PESA limited a repetition: the same customer and amount within two minutes.",
        "M-PESA ilizuia malipo yaliyorudiwa: mteja na kiasi kile kile ndani ya dakika mbili.",
    ),
    "26": _BUSY,
    "1001": Words(
        "Another M-PESA request of this customer was open.",
        "Mteja huyu alikuwa na ombi lingine la M-PESA.",
    ),
    "1019": Words(
        "The request expired before M-PESA completed it.",
        "Muda wa ombi uliisha kabla M-PESA haijalikamilisha.",
    ),
    "1025": Words(
        "M-PESA could not send the request to the phone, or its text was too long.",
        "M-PESA haikuweza kutuma ombi kwa simu, au maandishi yake yalikuwa marefu mno.",
    ),
    "1031": Words(
        "The customer cancelled the request on the phone.", "Mteja alighairi ombi kwenye simu."
    ),
    "1032": Words(
        "The customer cancelled the request on the phone.", "Mteja alighairi ombi kwenye simu."
    ),
    "1036": Words(
        "The network did not confirm that the request reached the phone.",
        "Mtandao haukuthibitisha kwamba ombi lilifika kwenye simu.",
    ),
    "1037": Words(
        "The phone could not be reached, or the customer did not answer the request.",
        "Simu haikupatikana, au mteja hakujibu ombi.",
    ),
    "1101": _PROMPT_LONG,
    "1102": _PROMPT_LONG,
    "2001": Words(
        "The customer entered a wrong M-PESA PIN.", "Mteja aliweka PIN ya M-PESA isiyo sahihi."
    ),
    "2006": _RESTRICTED,
    "2008": _RESTRICTED,
    "2026": _RESTRICTED,
    "2028": _SHORTCODE,
    "2029": Words(
        "A till was sent as a paybill, or a paybill as a till.",
        "Till ilitumwa kama paybill, au paybill ilitumwa kama till.",
    ),
    "2040": Words(
        "M-PESA does not support this type of customer.",
        "M-PESA haihudumii mteja wa aina hii.",
    ),
    "4999": Words(
        "The payment is still under way at M-PESA.", "Malipo bado yanaendelea kwenye M-PESA."
    ),
    "8006": Words("The customer's M-PESA PIN is locked.", "PIN ya M-PESA ya mteja imefungwa."),
    "9999": Words(
        "M-PESA could not send the request to the phone.", "M-PESA haikuweza kutuma ombi kwa simu."
    ),
    "E3008": Words(
        "M-PESA says that the customer has an unpaid debt.",
        "M-PESA inasema kwamba mteja ana deni ambalo halijalipwa.",
    ),
    "SFC_IC0003": _SHORTCODE,
    "SFC_J_C0003": _SHORTCODE,
}

_INITIATOR = Words(
    "M-PESA refused the name, the password or the rights of our initiator.",
    "M-PESA ilikataa jina, nenosiri au haki za mwanzilishi (initiator) wetu.",
)

PAYOUT_CODES: Mapping[str, Words] = {
    "0": _SUCCESS,
    "1": Words(
        "Our own M-PESA account did not have enough money.",
        "Akaunti yetu ya M-PESA haikuwa na salio la kutosha.",
    ),
    "2": _LOW,
    "3": _HIGH,
    "4": Words(
        "The payment would exceed a limit of a day, usually the recipient's.",
        "Malipo yangezidi kikomo cha siku moja, kwa kawaida cha mpokeaji.",
    ),
    "8": Words(
        "The recipient's account would hold more than M-PESA allows.",
        "Akaunti ya mpokeaji ingekuwa na salio linalozidi kikomo cha M-PESA.",
    ),
    "11": Words(
        "Our own M-PESA account is not in a state that may pay.",
        "Akaunti yetu ya M-PESA haiko katika hali ya kuweza kulipa.",
    ),
    "15": Words(
        "M-PESA already has a request with this id. This is no failure of the payment.",
        "M-PESA tayari ina ombi lenye nambari hii. Hii haimaanishi kwamba malipo hayakufaulu.",
    ),
    "17": Words(
        "M-PESA had an internal failure. The payment must be checked.",
        "M-PESA ilipata hitilafu ya ndani. Malipo yakaguliwe.",
    ),
    "18": _INITIATOR,
    "20": _INITIATOR,
    "21": _INITIATOR,
    "22": Words("Our initiator is not active.", "Mwanzilishi (initiator) wetu hajawezeshwa."),
    "24": _OUR_REQUEST,
    "25": _OUR_REQUEST,
    "26": _BUSY,
    "29": _OUR_REQUEST,
    "2001": _INITIATOR,
    "2006": _RESTRICTED,
    "2028": _SHORTCODE,
    "2032": Words(
        "M-PESA knows no payment with this id or receipt.",
        "M-PESA haijui malipo yenye nambari hii.",
    ),
    "2040": Words(
        "M-PESA does not support this type of recipient, or the recipient is not registered.",
        "M-PESA haihudumii mpokeaji wa aina hii, au mpokeaji hajasajiliwa.",
    ),
    "8006": Words(
        "The credential of our initiator is locked.",
        "Nenosiri la mwanzilishi (initiator) wetu limefungwa.",
    ),
    "SFC_IC0003": Words(
        "M-PESA does not know the recipient's number, paybill or till.",
        "M-PESA haijui nambari ya simu, paybill au till ya mpokeaji.",
    ),
    "TP40153": Words(
        "Our initiator lacks a permission.",
        "Mwanzilishi (initiator) wetu hana ruhusa inayohitajika.",
    ),
}
