<%-- What any servlet sees of a client's certificate and its handshake (Jakarta Servlet 6.0 section 3.10). --%>
<%@ page contentType="text/plain; charset=UTF-8" trimDirectiveWhitespaces="true"
    import="java.security.cert.X509Certificate, java.util.Base64" %>
<%
    Object found = request.getAttribute("jakarta.servlet.request.X509Certificate");
    X509Certificate[] chain = found == null ? new X509Certificate[0] : (X509Certificate[]) found;
    out.print("attribute: " + (found == null ? "absent" : "present") + "\n");
    if (chain.length > 0) {
        out.print("certificate: " + Base64.getEncoder().encodeToString(chain[0].getEncoded()) + "\n");
    }
    for (String name : new String[] {"cipher_suite", "key_size", "ssl_session_id"}) {
        out.print(name + ": " + request.getAttribute("jakarta.servlet.request." + name) + "\n");
    }
%>
