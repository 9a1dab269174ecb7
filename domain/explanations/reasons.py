"""What each reason of a failure means, and what the customer and the operator can do. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from domain.explanations.words import Explanation, Words
from domain.failures import FailureReason

_F = FailureReason

_NOTHING_TO_DO = Words(
    "Nothing. The customer may start a new payment.",
    "Hakuna la kufanya. Mteja anaweza kuanza malipo mapya.",
)
_CHECK_MESSAGES = Words(
    "Before you pay again, read your M-PESA messages. If the money was taken, do not pay again.",
    "Kabla ya kulipa tena, soma ujumbe wako wa M-PESA. Ikiwa pesa zimekatwa, usilipe tena.",
)
_CHECK_STATEMENT = Words(
    "Look for the payment on M-PESA's statement before it is paid again. If M-PESA reports a "
    "success later, the service corrects the payment.",
    "Tafuta malipo haya kwenye taarifa ya M-PESA kabla ya kulipwa tena. M-PESA ikiripoti baadaye "
    "kwamba yamefanikiwa, huduma itarekebisha malipo haya.",
)
_PAY_AGAIN = Words("Pay again.", "Lipa tena.")
_TRY_LATER = Words(
    "Try again later. You paid nothing.",
    "Jaribu tena baadaye. Hukulipa chochote.",
)
_ASK_BUSINESS = Words(
    "Ask the business when it will pay you.",
    "Uliza kampuni itakulipa lini.",
)

# For a deposit, the customer pays. A payout has some other explanations: `PAYOUT_REASONS`.
REASONS: Mapping[FailureReason, Explanation] = {
    _F.CANCELLED_BY_CUSTOMER: Explanation(
        meaning=Words(
            "The customer cancelled the M-PESA request on the phone. No money moved.",
            "Mteja alighairi ombi la M-PESA kwenye simu. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Pay again, and enter your PIN when the request appears.",
            "Lipa tena, na uweke PIN yako ombi linapotokea kwenye simu.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.INSUFFICIENT_FUNDS: Explanation(
        meaning=Words(
            "The customer did not have enough money in M-PESA. No money moved.",
            "Mteja hakuwa na salio la kutosha la M-PESA. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Add money to your M-PESA account, then pay again.",
            "Ongeza pesa kwenye akaunti yako ya M-PESA, kisha ulipe tena.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.WRONG_PIN: Explanation(
        meaning=Words(
            "The customer entered a wrong M-PESA PIN, or the PIN is locked. No money moved.",
            "Mteja aliweka PIN ya M-PESA isiyo sahihi, au PIN imefungwa. "
            "Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Pay again with the right PIN. If your PIN is locked, ask Safaricom to unlock it.",
            "Lipa tena kwa PIN sahihi. Ikiwa PIN yako imefungwa, omba Safaricom waifungue.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.NO_RESPONSE: Explanation(
        meaning=Words(
            "The customer's phone could not be reached, or the customer did not answer the "
            "request. M-PESA has sometimes completed such a payment later.",
            "Simu ya mteja haikupatikana, au mteja hakujibu ombi. Wakati mwingine M-PESA "
            "hukamilisha malipo kama haya baadaye.",
        ),
        customer=Words(
            "Read your M-PESA messages. If no money was taken, switch on your phone, make sure "
            "that it has network, and pay again.",
            "Soma ujumbe wako wa M-PESA. Ikiwa pesa hazijakatwa, washa simu yako, hakikisha ina "
            "mtandao, kisha ulipe tena.",
        ),
        operator=_CHECK_STATEMENT,
    ),
    _F.EXPIRED: Explanation(
        meaning=Words(
            "M-PESA did not complete the payment in time. It may still be completed late.",
            "M-PESA haikukamilisha malipo kwa wakati. Bado yanaweza kukamilika baadaye.",
        ),
        customer=_CHECK_MESSAGES,
        operator=_CHECK_STATEMENT,
    ),
    _F.SUBSCRIBER_BUSY: Explanation(
        meaning=Words(
            "Another M-PESA request was open on this phone. No money moved.",
            "Kulikuwa na ombi lingine la M-PESA kwenye simu hii. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Finish or cancel the other request, wait a minute, and pay again.",
            "Maliza au ghairi ombi hilo lingine, subiri dakika moja, kisha ulipe tena.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.LIMIT_EXCEEDED: Explanation(
        meaning=Words(
            "The amount breaks one of M-PESA's limits: for one payment, for a day, or for the "
            "balance of an account. No money moved.",
            "Kiasi hiki hakilingani na vikomo vya M-PESA: cha muamala mmoja, cha siku moja, au cha "
            "salio la akaunti. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Pay another amount, or try again tomorrow.",
            "Lipa kiasi kingine, au jaribu tena kesho.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.INVALID_RECIPIENT: Explanation(
        meaning=Words(
            "The recipient cannot receive this payment. No money moved.",
            "Mpokeaji hawezi kupokea malipo haya. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Check that the number is right and is registered with M-PESA.",
            "Hakikisha kwamba nambari ni sahihi na imesajiliwa kwenye M-PESA.",
        ),
        operator=Words(
            "Compare the phone number, paybill or till with the recipient's, then start a new "
            "payment.",
            "Linganisha nambari ya simu, paybill au till na ya mpokeaji, kisha uanze malipo mapya.",
        ),
    ),
    _F.REJECTED_BY_PROVIDER: Explanation(
        meaning=Words("M-PESA declined the payment.", "M-PESA ilikataa malipo haya."),
        customer=Words(
            "Ask Safaricom whether your M-PESA account is restricted.",
            "Uliza Safaricom kama akaunti yako ya M-PESA imewekewa kizuizi.",
        ),
        operator=Words(
            "Read Daraja's answer in the payment's story. If the payment is not safe to retry, "
            "look for it on M-PESA's statement first.",
            "Soma jibu la Daraja kwenye historia ya malipo haya. Ikiwa si salama kujaribu tena, "
            "tafuta malipo kwenye taarifa ya M-PESA kwanza.",
        ),
    ),
    _F.NOT_SUBMITTED_IN_TIME: Explanation(
        meaning=Words(
            "The payment could not be sent to M-PESA in time, and was not sent. No money moved.",
            "Malipo hayakuweza kutumwa kwa M-PESA kwa wakati, na hayakutumwa. "
            "Hakuna pesa zilizohamishwa.",
        ),
        customer=_PAY_AGAIN,
        operator=Words(
            "Find out why it waited: run `payouts status`, `operations status` and `doctor`, and "
            "check that a worker runs.",
            "Tafuta kwa nini yalisubiri: endesha `payouts status`, `operations status` na "
            "`doctor`, na uhakikishe kwamba worker inafanya kazi.",
        ),
    ),
    _F.NO_RESULT_CONFIRMED: Explanation(
        meaning=Words(
            "M-PESA gave no result, and its records show none. The result may still arrive.",
            "M-PESA haikutoa matokeo, na rekodi zake hazionyeshi matokeo yoyote. "
            "Matokeo yanaweza kufika baadaye.",
        ),
        customer=_CHECK_MESSAGES,
        operator=_CHECK_STATEMENT,
    ),
    _F.CANCELLED_BY_CALLER: Explanation(
        meaning=Words(
            "The app or system that asked for the payment, or an operator for it, cancelled the "
            "payment before it was sent. No money moved.",
            "Programu iliyoomba malipo, au msimamizi kwa niaba yake, iliyaghairi kabla "
            "hayajatumwa. Hakuna pesa zilizohamishwa.",
        ),
        customer=Words(
            "Pay again if you still want to pay.",
            "Lipa tena ikiwa bado unataka kulipa.",
        ),
        operator=_NOTHING_TO_DO,
    ),
    _F.REVERSED: Explanation(
        meaning=Words("The payment was reversed.", "Malipo haya yamerudishwa."),
        customer=Words(
            "Read your M-PESA messages, which show the reversal.",
            "Soma ujumbe wako wa M-PESA, unaoonyesha kwamba pesa zimerudishwa.",
        ),
        operator=Words(
            "Compare with M-PESA's statement before the payment is made again.",
            "Linganisha na taarifa ya M-PESA kabla malipo hayajafanywa tena.",
        ),
    ),
    _F.CONFIGURATION: Explanation(
        meaning=Words(
            "M-PESA refused this service's own settings. No money moved.",
            "M-PESA ilikataa mipangilio ya huduma hii yenyewe. Hakuna pesa zilizohamishwa.",
        ),
        customer=_TRY_LATER,
        operator=Words(
            "Run `doctor` and `operations status`, read Daraja's answer in the payment's story, "
            "and correct the setting.",
            "Endesha `doctor` na `operations status`, soma jibu la Daraja kwenye historia ya "
            "malipo, kisha urekebishe mipangilio.",
        ),
    ),
    _F.RESOLVED_BY_OPERATOR: Explanation(
        meaning=Words(
            "An operator found on M-PESA's own statement that no money moved.",
            "Msimamizi aliona kwenye taarifa ya M-PESA kwamba hakuna pesa zilizohamishwa.",
        ),
        customer=_PAY_AGAIN,
        operator=_NOTHING_TO_DO,
    ),
}

# For a payout, we pay, and the customer receives.
PAYOUT_REASONS: Mapping[FailureReason, Explanation] = {
    _F.INSUFFICIENT_FUNDS: Explanation(
        meaning=Words(
            "Our own M-PESA account did not have enough money. Nothing was paid.",
            "Akaunti yetu ya M-PESA haikuwa na salio la kutosha. Hakuna kilicholipwa.",
        ),
        customer=_ASK_BUSINESS,
        operator=Words(
            "Add money to the account that pays (withdrawals: the Utility account; bill payments: "
            "the Working account), then start a new payment.",
            "Ongeza pesa kwenye akaunti inayolipa (malipo kwa mteja: akaunti ya Utility; malipo "
            "ya bili: akaunti ya Working), kisha uanze malipo mapya.",
        ),
    ),
    _F.LIMIT_EXCEEDED: Explanation(
        meaning=Words(
            "The amount breaks one of M-PESA's limits: for one payment, for a day, or for the "
            "balance of the recipient. Nothing was paid.",
            "Kiasi hiki hakilingani na vikomo vya M-PESA: cha muamala mmoja, cha siku moja, au cha "
            "salio la mpokeaji. Hakuna kilicholipwa.",
        ),
        customer=_ASK_BUSINESS,
        operator=Words(
            "Start a new payment of another amount, or try again tomorrow.",
            "Anza malipo mapya ya kiasi kingine, au jaribu tena kesho.",
        ),
    ),
    _F.REJECTED_BY_PROVIDER: Explanation(
        meaning=REASONS[_F.REJECTED_BY_PROVIDER].meaning,
        customer=_ASK_BUSINESS,
        operator=REASONS[_F.REJECTED_BY_PROVIDER].operator,
    ),
    _F.NOT_SUBMITTED_IN_TIME: Explanation(
        meaning=REASONS[_F.NOT_SUBMITTED_IN_TIME].meaning,
        customer=_ASK_BUSINESS,
        operator=REASONS[_F.NOT_SUBMITTED_IN_TIME].operator,
    ),
    _F.CONFIGURATION: Explanation(
        meaning=REASONS[_F.CONFIGURATION].meaning,
        customer=_ASK_BUSINESS,
        operator=REASONS[_F.CONFIGURATION].operator,
    ),
    _F.RESOLVED_BY_OPERATOR: Explanation(
        meaning=REASONS[_F.RESOLVED_BY_OPERATOR].meaning,
        customer=_ASK_BUSINESS,
        operator=_NOTHING_TO_DO,
    ),
}
